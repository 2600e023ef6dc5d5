"""What a replica holds in each tier: where it lives, and in main memory beside an accelerator.

Read back after every transition, never assumed.  KV memory is exact; buffers are what the library
reserved, and what appeared besides.
"""

from dataclasses import dataclass

from repertory.domain.events import Measured
from repertory.domain.ladder import Rung
from repertory.engines.llamacpp.cells.slots import Copied
from repertory.engines.llamacpp.context import Context
from repertory.engines.llamacpp.library import Accelerator
from repertory.engines.llamacpp.weights import Shelved, taken_bytes

__all__ = ["NOTHING", "Account", "Known", "Tiers", "in_use", "measured_of", "read_back"]

_STATE_OVERHEAD_BYTES = 32
"""What a saved token holds besides its KV (position, sequence): measured 13."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """Bytes where a replica lives, and in main memory if that is elsewhere."""

    there_bytes: int
    rest_bytes: int

    def plus(self, other: "Tiers", sign: int = 1) -> "Tiers":
        return Tiers(
            self.there_bytes + sign * other.there_bytes, self.rest_bytes + sign * other.rest_bytes
        )

    def at_least(self, other: "Tiers") -> "Tiers":
        return Tiers(
            max(self.there_bytes, other.there_bytes), max(self.rest_bytes, other.rest_bytes)
        )


NOTHING = Tiers(0, 0)


@dataclass(frozen=True, slots=True)
class Known:
    """What a model's first context showed."""

    token_bytes: int
    """KV of one token, as saved."""
    unstated: Tiers
    """What appeared beyond the KV and the buffers that the library reserved."""


@dataclass(frozen=True, slots=True)
class Account:
    """Of a serving replica."""

    kv: Tiers = NOTHING
    buffers: Tiers = NOTHING

    @property
    def total(self) -> Tiers:
        return self.kv.plus(self.buffers)


def in_use(accelerator: Accelerator | None) -> Tiers:
    """By everybody, where replicas live."""
    rest = 0 if accelerator is None else taken_bytes(None)
    return Tiers(taken_bytes(accelerator), rest)


def read_back(
    context: Context,
    accelerator: Accelerator | None,
    token_bytes: tuple[int, int],
    before: Tiers,
    known: Known | None,
) -> tuple[Account, Known]:
    """`token_bytes`: of one token as saved, and as the file's head has it."""
    saved, stated = token_bytes
    each = stated if 0 <= saved - stated <= _STATE_OVERHEAD_BYTES else saved
    total, reserved = context.cells_allocated * each, context.reserved_bytes
    kv, stated_buffers = Tiers(total, 0), Tiers(reserved, 0)
    if accelerator is not None:
        rest, reserved_here = round(total * context.kv_share_here), context.reserved_here_bytes
        kv = Tiers(total - rest, rest)
        stated_buffers = Tiers(reserved - reserved_here, reserved_here)
    appeared = in_use(accelerator).plus(before, -1).plus(kv, -1)
    unstated = appeared.plus(stated_buffers, -1).at_least(NOTHING)
    known = known or Known(each, unstated)
    return Account(kv, stated_buffers.plus(unstated.at_least(known.unstated))), known


def measured_of(
    took_ns: int,
    source: Rung | None,
    held: Shelved | None,
    account: Account,
    accelerator: Accelerator | None,
    saved: Copied,
) -> Measured:
    """What the brain is told."""
    weights = Tiers(0, 0) if held is None else Tiers(held.weights_bytes, held.rest_bytes)
    has_rest = accelerator is not None
    return Measured(
        took_ns=took_ns,
        weights_bytes=weights.there_bytes,
        kv_bytes=account.kv.there_bytes,
        buffers_bytes=account.buffers.there_bytes,
        source=source,
        rest_weights_bytes=weights.rest_bytes if has_rest else None,
        rest_kv_bytes=account.kv.rest_bytes if has_rest else None,
        rest_buffers_bytes=account.buffers.rest_bytes if has_rest else None,
        kv_saved_bytes=saved.bytes,
        kv_saved_ns=saved.took_ns,
    )
