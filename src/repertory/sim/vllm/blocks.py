"""The KV memory of vLLM in blocks: the longest free goes first, and keeps its cells until then.

So a request that was preempted may find the beginning of what it had computed.  Nothing else is
found by its content: prompts are taken to differ, as request files have lengths only.  Of prompts
that continue a conversation that is not so (docs/results/sim.md).
"""

from collections import OrderedDict
from collections.abc import Sequence

__all__ = ["BlockPool"]

_Cell = tuple[int, int]
"""A request's number, and which of its blocks."""


class BlockPool:
    """Blocks are numbers; which of them a request has is its own affair."""

    def __init__(self, blocks: int) -> None:
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))
        self._cell_of: dict[int, _Cell] = {}
        self._block_of: dict[_Cell, int] = {}

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Those that were given back the longest ago; what they held is lost."""
        assert count <= len(self._free), f"{count} blocks of {len(self._free)} free"
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            cell = self._cell_of.pop(block, None)
            if cell is not None:
                del self._block_of[cell]
        return taken

    def give(self, blocks: Sequence[int]) -> None:
        """The last first: of a sequence cut short, the beginning is worth the most."""
        for block in reversed(blocks):
            self._free[block] = None

    def give_named(self, request: int, blocks: Sequence[int], whole: int) -> None:
        """The same, and the first `whole` blocks can be found again until they are taken."""
        for index, block in enumerate(blocks[:whole]):
            self._cell_of[block] = (request, index)
            self._block_of[(request, index)] = block
        self.give(blocks)

    def held(self, request: int, most: int) -> list[int]:
        """The request's first blocks that are still there, without a gap, at most so many."""
        found: list[int] = []
        while len(found) < most:
            block = self._block_of.get((request, len(found)))
            if block is None:
                break
            found.append(block)
        return found

    def take_back(self, blocks: Sequence[int]) -> None:
        """Blocks that `held` named."""
        for block in blocks:
            del self._free[block]
            del self._block_of[self._cell_of.pop(block)]
