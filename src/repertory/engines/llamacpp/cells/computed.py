"""What has cells: which weights computed them, of which tokens, and who else may use them."""

from dataclasses import dataclass

from repertory.engines.contract import GenerationSpec
from repertory.engines.llamacpp import CHUNK_TOKENS

__all__ = ["NOTHING", "Computed", "Weights", "computed_of", "shared_tokens"]


@dataclass(frozen=True, slots=True)
class Weights:
    """A file as it is loaded: its cells are of no use to any other."""

    file: str
    """Its digest."""
    architecture: str = ""
    form: str = ""
    place: str = ""
    """An accelerator; empty: the cores."""
    layers: int | None = None
    """There; None: all."""
    is_exact: bool = False
    """Without flash attention the values lie in another order."""

    @property
    def kind(self) -> str:
        """What does not come back of one is not believed of another of its kind."""
        mode = "exact" if self.is_exact else "default"
        return f"{self.architecture}/{self.place}/{mode}"

    @property
    def name(self) -> str:
        """For files."""
        layers = "all" if self.layers is None else self.layers
        return f"{self.file}/{self.form}/{layers}/{self.kind}"


@dataclass(frozen=True, slots=True)
class Computed:
    """Tokens, and how their cells came to be: some in chunks, those after them one by one."""

    tokens: tuple[int, ...]
    prefill_tokens: int


NOTHING = Computed((), 0)


def computed_of(spec: GenerationSpec, *, is_exact: bool) -> Computed:
    """All that a generation wants to have cells of when it begins, or goes on.

    In mode `exact` as they came to be: the prompt in chunks, each later token by itself.  Else all
    in chunks, which takes a tenth of the time.
    """
    tokens = (*spec.prompt, *spec.emitted)
    return Computed(tokens, len(spec.prompt) if is_exact else len(tokens))


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
