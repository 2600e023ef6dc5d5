"""KV of sequences that lost their slot, in main memory, until somebody goes on with it.

Found again by its tokens: by a generation that was stopped and goes on, and by the next turn of a
conversation whose model was away meanwhile.  Copying back is a hundred times quicker than computing
again (1,000 tokens of a 50M: 2 ms), and bit for bit.
"""

import threading
from dataclasses import dataclass

from repertory.engines.llamacpp import CHUNK_TOKENS
from repertory.engines.llamacpp.context import SavedSequence
from repertory.policy.keep import Keep

__all__ = ["Computed", "Saved", "SavedKv", "shared_tokens"]


@dataclass(frozen=True, slots=True)
class Computed:
    """Tokens, and how their cells came to be: some in chunks, those after them one by one."""

    tokens: tuple[int, ...]
    prefill_tokens: int


def shared_tokens(kept: Computed, wanted: Computed, *, is_exact: bool) -> int:
    """How many tokens of `wanted` need not be computed where the cells of `kept` are.

    1. One at least is left to compute: its logits are wanted.
    2. By default all that both begin with.
    3. In mode `exact`, where cells must have the bits that computing them would give: all of it if
       the prompts are equal, for then it is one generation that goes on; else whole chunks of the
       prompts.
    """
    most = max(0, min(len(kept.tokens), len(wanted.tokens) - 1))
    common = most
    if kept.tokens[:most] != wanted.tokens[:most]:
        pairs = enumerate(zip(kept.tokens, wanted.tokens, strict=False))
        common = next(at for at, (one, other) in pairs if one != other)
    if not is_exact:
        return common
    if kept.prefill_tokens == wanted.prefill_tokens <= common:
        return common
    chunked = min(common, kept.prefill_tokens, wanted.prefill_tokens)
    return chunked // CHUNK_TOKENS * CHUNK_TOKENS


@dataclass(frozen=True, slots=True)
class Saved:
    """A sequence in main memory."""

    name: str
    weights: object
    """The file and form that computed it."""
    computed: Computed
    sequence: SavedSequence


class SavedKv:
    """All that a worker has saved, within a budget.  May be used from any thread."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._keep = Keep(budget_bytes)
        self._saved: dict[str, Saved] = {}
        self._distrusted: set[object] = set()
        self._count = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        return self._keep.total_bytes

    def wants(self, weights: object, size_bytes: int) -> bool:
        """Whether saving so much of this model may be worth the copy."""
        return 0 < size_bytes <= self._budget_bytes and weights not in self._distrusted

    def put(
        self, weights: object, computed: Computed, sequence: SavedSequence, cost_s: float
    ) -> None:
        """Save it; what it continues is not needed any more.  `cost_s`: to compute it again."""
        with self._lock:
            for one in list(self._saved.values()):
                size = len(one.computed.tokens)
                if one.weights == weights and one.computed.tokens == computed.tokens[:size]:
                    self._drop(one.name)
            self._count += 1
            name = f"{self._count:012d}"
            self._saved[name] = Saved(name, weights, computed, sequence)
            for gone in self._keep.put(name, sequence.bytes, cost_s):
                self._saved.pop(gone, None)

    def find(
        self, weights: object, wanted: Computed, least_tokens: int, *, is_exact: bool
    ) -> tuple[Saved, int] | None:
        """What spares most of `wanted`, and how many tokens; None if it is fewer than asked for."""
        with self._lock:
            best: tuple[Saved, int] | None = None
            for one in self._saved.values():
                if one.weights != weights:
                    continue
                tokens = shared_tokens(one.computed, wanted, is_exact=is_exact)
                if tokens >= least_tokens and (best is None or tokens > best[1]):
                    best = (one, tokens)
            if best is not None:
                self._keep.use(best[0].name)
            return best

    def distrust(self, saved: Saved) -> None:
        """It did not come back as it should: nothing of this model is saved or used any more."""
        with self._lock:
            self._distrusted.add(saved.weights)
            for one in list(self._saved.values()):
                if one.weights == saved.weights:
                    self._drop(one.name)

    def _drop(self, name: str) -> None:
        self._keep.drop(name)
        self._saved.pop(name, None)
