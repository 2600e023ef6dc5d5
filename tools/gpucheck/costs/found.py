"""What the items about costs find, as data.  Steps and links are the product's own nouns
(`repertory.domain.readings`), so that its laws can be made from them."""

from typing import Literal

import msgspec

from repertory.domain.readings import LinkReading, StepReading

__all__ = ["Costs", "Curve", "Cycle", "Interruption", "Resume", "Summary"]


_APART_SHARE = 0.01


class Cycle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One interruption of a model for another one, and back (Yildiz 2026, §1.4)."""

    claimant: str
    point_tokens: int
    """Of KV, when it was interrupted."""
    stays: bool
    """The victim stayed on the device with its KV, and the claimant came beside it."""
    kv_bytes: int
    step_s: float
    """The victim's next token if nothing had happened."""
    out_s: float
    """KV to main memory."""
    close_s: float
    """The context gone."""
    unload_s: float
    """Until the weights were freed, and the device's memory was read to be free."""
    kept_bytes: int
    """What was not free by then, nor two seconds later."""
    tolerance_bytes: int
    claimant_up_s: float
    """Weights and context."""
    claimant_run_s: float
    claimant_down_s: float
    load_s: float
    """The victim's weights again."""
    context_s: float
    """Its KV memory and buffers again."""
    in_s: float
    """KV back."""
    first_token_s: float
    logits_apart_share: float
    """Of the largest logit: how far the next token's are from those without an interruption."""

    @property
    def came_back(self) -> bool:
        """Whether the victim's memory did."""
        return self.kept_bytes <= self.tolerance_bytes

    @property
    def goes_on(self) -> bool:
        """As if nothing had happened: restored cells are the same bits; other cells would change
        everything."""
        return self.logits_apart_share <= _APART_SHARE

    @property
    def swap_s(self) -> float:
        """What the victim pays for its weights and context; the claimant's own way is the
        claimant's."""
        return self.close_s + self.unload_s + self.load_s + self.context_s

    @property
    def kv_s(self) -> float:
        return self.out_s + self.in_s

    @property
    def overhead_s(self) -> float:
        """All steps but the claimant's, and of the first token what a step does not take anyway."""
        return self.swap_s + self.kv_s + max(0.0, self.first_token_s - self.step_s)


class Resume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A generation that went on after its model was unloaded, beside the undisturbed one."""

    way: Literal["kv", "replay"]
    tokens: int
    """After the interruption."""
    same_tokens: int
    """Of them: chosen as without an interruption, the choices before being the same."""
    seconds: float
    """From the context to the last known token's logits: restoring, or computing again."""
    logprob_difference_max: float
    """Of the undisturbed run's tokens."""
    logprob_difference_mean: float

    @property
    def holds(self) -> bool:
        """Restored cells are the same bits; what is computed again in other batches rounds
        otherwise."""
        return self.way == "replay" or self.same_tokens == self.tokens


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one item."""

    steps: list[StepReading] = []
    cycles: list[Cycle] = []
    links: list[LinkReading] = []
    resumes: list[Resume] = []
    notes: list[str] = []
    """What was left out or is not offered, and why."""


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model's steps by share and length, as the law of `repertory.perf.offload`:
    t(f, L) = f (a_g + b_g L) + (1 - f)(a_c + b_c L) + c, in seconds per token."""

    model: str
    kind: Literal["decode", "prefill"]
    device_fixed_s: float
    device_per_token_s: float
    host_fixed_s: float
    host_per_token_s: float
    crossing_s: float
    residual: float
    """Root mean square of the relative errors over all points."""
    points: int
    spread: float
    """Half the range of the repeats over their median, in the middle: what no law can hit."""


class Interruption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the preemption table: one pair, over all points.  Seconds are means."""

    victim: str
    claimant: str
    stays: bool
    points: int
    overhead_s: float
    """Without the claimant's own way."""
    least_s: float
    most_s: float
    swap_share: float
    kv_share: float
    out_s: float
    unload_s: float
    """With closing the context, until the memory was free."""
    load_s: float
    """With making the context."""
    in_s: float
    first_token_s: float
    claimant_s: float
    """Its weights and context up, and down again: what it pays itself."""
    steps_per_load: float
    """The victim's load in steps of its own decoding."""
    added_share: float
    """Of an undisturbed run of 7,000 tokens at this step, as Yildiz 2026 states it."""
    last_point_tokens: int
    last_kv_bytes: int
    last_out_s: float
    last_in_s: float
    by_point_share: float
    """How much more the last point costs than the first by a straight line, over the mean."""
    scatter_share: float
    """How far points lie off that line, over the mean: twice the middle distance."""
    memory_came_back: bool
    logits_apart_share: float
    """The most, of all points."""


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the readings say, computed from the items when the report is written."""

    curves: list[Curve] = []
    interruptions: list[Interruption] = []
    answers: list[str] = []
    """Does the cost of a preemption depend on its point, or on the other model?"""
