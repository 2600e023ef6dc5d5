"""One law for what a device and the CPU beside it compute together, each a share of it.

    t(f) = f t_device + (1 - f) t_cpu + c                                 (Yildiz 2026, §1.3)

`f` is the share of *bytes* that the device reads.  A step visits all layers one after another, so
their times add; `c` is what crossing over costs where both compute (0 < f < 1).  Layers counted
instead of bytes misfit a 50M by 20 %: its output head is half of it (facts.md).

A prompt obeys the same law with two differences.  Its tokens need no output, but for the last one:
the head is no part of `f`.  And where the CPU need not wait for the device, of a prompt in m chunks
the smaller part is hidden behind the larger one, but for one chunk:

    t(f) = here + there - (1 - 1/m) min(here, there),   there = f t_device, here = (1 - f) t_cpu
"""

__all__ = ["divided_s", "here_s", "prompt_share", "share_of"]


def share_of(layers_there: int, layers: int, head_bytes: int, layers_bytes: int) -> float:
    """Of the bytes that a step reads, what is on the device with so many of the layers there.

    The output head is the first to go, with the first layer.  Tables that rows are taken from are
    no part of it: they stay in main memory.
    """
    assert 0 <= layers_there <= layers, f"{layers_there} of {layers} layers"
    if layers_there == 0:
        return 0.0
    there_bytes = head_bytes + layers_bytes * layers_there / layers
    return there_bytes / (head_bytes + layers_bytes)


def prompt_share(share: float, head_share: float) -> float:
    """The same of what a prompt reads: without the head, which is `head_share` of a step's."""
    return max(0.0, (share - head_share) / (1.0 - head_share))


def divided_s(
    share: float, there_s: float, elsewhere_s: float, crossing_s: float = 0.0, chunks: float = 1.0
) -> float:
    """Seconds with so much on the device, from those of all of it there and of all of it on the
    CPU; in so many chunks that need not wait for each other.
    """
    there, here = share * there_s, (1.0 - share) * elsewhere_s
    hidden_s = (1.0 - 1.0 / max(1.0, chunks)) * min(there, here)
    return there + here - hidden_s + (crossing_s if 0.0 < share < 1.0 else 0.0)


def here_s(share: float, there_s: float, measured_s: float, chunks: float = 1.0) -> float:
    """All of it on the CPU, from all of it on the device and one measured share between: the two
    points that give the curve.
    """
    assert 0.0 <= share < 1.0, "with all on the device nothing tells of the CPU"
    chunks, there = max(1.0, chunks), share * there_s
    here = measured_s - there / chunks
    if here < there:
        here = (measured_s - there) * chunks
    return max(1e-9, here) / (1.0 - share)
