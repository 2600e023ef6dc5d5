"""What an item's name says."""

__all__ = ["claimant_of", "kind_of", "layers_of"]


def kind_of(item: str) -> str:
    return item.split("-")[0]


def layers_of(item: str) -> int:
    """Of an offload item: on the device."""
    return int(item.removeprefix("offload-"))


def claimant_of(item: str) -> str:
    """Of a preemption: for whom the model is interrupted."""
    return item.removeprefix("preempt-for-")
