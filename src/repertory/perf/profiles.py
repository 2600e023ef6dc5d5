"""What moves and steps cost: laws of few coefficients, priors for hardware never measured.

A `Profile` holds one law per kind of work for one model on one device.  `prior_profile` states it
for a machine that nobody has measured, `perf.fit` makes it from what `repertory profile` has read,
and `repertory.perf.costs` corrects either by real transitions.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from repertory.domain.ladder import Rung
from repertory.domain.specs import DeviceSpec, ModelSpec, WeightsForm
from repertory.perf.divided import divided_s, prompt_share

__all__ = [
    "ACTIVATE",
    "DECODE_KEYS",
    "KV_IN",
    "KV_OUT",
    "LOAD_KEYS",
    "PREFILL_KEYS",
    "PRIOR_ERROR",
    "UNWAITED_TOKENS",
    "Beside",
    "Curve",
    "Key",
    "Law",
    "Profile",
    "StepLaw",
    "prior_profile",
    "straight",
]

Key = tuple[str, str]
"""Kind of work and its variant: ("load", "plain/host"), ("activate", ""), ("prefill", "plain")."""
LOAD_KEYS: dict[tuple[WeightsForm, Rung], Key] = {
    (form, source): ("load", f"{form.value}/{source.value}")
    for form in WeightsForm
    for source in (Rung.DISK, Rung.HOST)
}
PREFILL_KEYS: dict[WeightsForm, Key] = {form: ("prefill", form.value) for form in WeightsForm}
DECODE_KEYS: dict[WeightsForm, Key] = {form: ("decode", form.value) for form in WeightsForm}
ACTIVATE: Key = ("activate", "")
KV_OUT: Key = ("kv", "out")
KV_IN: Key = ("kv", "in")
PRIOR_ERROR = 0.6
"""How far a prior may be off: between machines that were tried, by two thirds either way."""
_ACCELERATOR_PACE = 0.1
"""Seconds on an accelerator to seconds on cores, before it was measured: the asymmetric pair of
facts.md stands at 3.4 to 10, real cards above."""

UNWAITED_TOKENS = 128
"""Of the embedded worker's chunks.  An RPC device is sent its part and the library's wait for it
ends with the sending, so the host computes the next chunk meanwhile; every other device is waited
for."""


@dataclass(frozen=True, slots=True)
class Law:
    """seconds = fixed_s + units * per_unit_s."""

    fixed_s: float
    per_unit_s: float

    def seconds(self, units: float) -> float:
        return self.fixed_s + units * self.per_unit_s


@dataclass(frozen=True, slots=True)
class Curve:
    """Straight between measured points, and on along the last piece beyond them; never negative.

    Steps of a 300M for 1, 2, 4, 8 and 16 sequences take 7.4, 17, 25, 30 and 44 ms on two cores: no
    straight line fits.
    """

    points: tuple[tuple[float, float], ...]
    """(units, seconds), units ascending; at least two."""

    def seconds(self, units: float) -> float:
        points = self.points
        if len(points) == 2:
            (left, low_s), (right, high_s) = points
        else:
            there = min(max(bisect_right(points, units, key=_units), 1), len(points) - 1)
            (left, low_s), (right, high_s) = points[there - 1], points[there]
        seconds = low_s + (units - left) * (high_s - low_s) / (right - left)
        return seconds if seconds > 0.0 else 0.0


def _units(point: tuple[float, float]) -> float:
    return point[0]


def straight(fixed_s: float, per_unit_s: float) -> Curve:
    """The curve of a law with two coefficients."""
    return Curve(((0.0, fixed_s), (1.0, fixed_s + per_unit_s)))


@dataclass(frozen=True, slots=True)
class StepLaw:
    """Seconds of computing: by the tokens that are computed, and by what they look at.

    seconds = base(tokens) + pairs * per_pair_s, a pair being a computed token and a token of the
    context that it attends to.  It is the `a + b L` of the offload law, with the batch in `a`.
    """

    base: Curve
    per_pair_s: float = 0.0

    def decode_s(self, batch: float, context_tokens: float) -> float:
        """One step of so many sequences, with so many tokens of context all together."""
        return self.base.seconds(batch) + context_tokens * self.per_pair_s

    def prefill_s(self, tokens: float, context_tokens: float = 0.0) -> float:
        """A prompt of so many tokens, after so much context."""
        pairs = tokens * (context_tokens + tokens / 2.0)
        return self.base.seconds(tokens) + pairs * self.per_pair_s


@dataclass(frozen=True, slots=True)
class Beside:
    """The CPU that computes what is not on its model's device (Yildiz, feature 1 and 3)."""

    prefill: StepLaw
    decode: StepLaw
    load: Mapping[Rung, Law]
    """Per byte of weights that stay there."""
    crossing_s: float = 0.0
    """Of a step that computes on both."""
    unwaited_tokens: int = 0
    """Of a chunk of a prompt, where the CPU does not wait for the device to be done with it before
    it begins the next one; 0: it waits."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The costs of one model on one device.  `share`: of its weights' bytes on that device."""

    load: Mapping[tuple[WeightsForm, Rung], Law]
    """Per byte of weights, by form and by where the bytes come from."""
    stage: Law
    """Per byte of weights."""
    activate: Law
    """Per byte of KV memory."""
    move_kv: Law
    """Per byte of KV memory carried along in a resize."""
    deactivate_s: float
    unload_s: float
    drop_s: float
    prefill: Mapping[WeightsForm, StepLaw]
    decode: Mapping[WeightsForm, StepLaw]
    kv_out: Law
    """Per byte of KV copied to main memory."""
    kv_in: Law
    crowding: float = 1.0
    """A load while something decodes on the node, to one alone."""
    beside: Beside | None = None
    """None: there is nothing beside it, all layers are on the device."""
    head_share: float = 0.0
    """Of the bytes that a step reads, the output head's: a prompt does not read them."""
    errors: Mapping[Key, float] = field(default_factory=dict)
    """Of the laws that were fitted to readings: how far they are off there, relatively.  The others
    are a prior's."""

    def load_s(
        self, form: WeightsForm, source: Rung, weights_bytes: int, share: float = 1.0
    ) -> float:
        """Opening the weights; what stays beside the device is opened after what goes there."""
        law = self.load[form, source]
        if share >= 1.0 or self.beside is None:
            return law.seconds(weights_bytes)
        here = self.beside.load[source]
        return law.seconds(share * weights_bytes) + here.seconds((1.0 - share) * weights_bytes)

    def decode_s(
        self, form: WeightsForm, batch: float, context_tokens: float, share: float = 1.0
    ) -> float:
        """One step; the law of `perf.divided` where not all is on the device."""
        there_s = self.decode[form].decode_s(batch, context_tokens)
        if share >= 1.0 or self.beside is None:
            return there_s
        elsewhere_s = self.beside.decode.decode_s(batch, context_tokens)
        return divided_s(share, there_s, elsewhere_s, self.beside.crossing_s)

    def prefill_s(
        self, form: WeightsForm, tokens: float, context_tokens: float = 0.0, share: float = 1.0
    ) -> float:
        """A prompt, or a part of one; the same law, without the head and chunk by chunk."""
        there_s = self.prefill[form].prefill_s(tokens, context_tokens)
        if share >= 1.0 or self.beside is None:
            return there_s
        elsewhere_s = self.beside.prefill.prefill_s(tokens, context_tokens)
        part, crossing_s = prompt_share(share, self.head_share), self.beside.crossing_s
        return divided_s(part, there_s, elsewhere_s, crossing_s, self.chunks(tokens))

    def chunks(self, tokens: float) -> float:
        """Of a prompt, those that need not wait for each other."""
        if self.beside is None or not self.beside.unwaited_tokens:
            return 1.0
        return max(1.0, tokens / self.beside.unwaited_tokens)


def prior_profile(spec: ModelSpec, device: DeviceSpec) -> Profile:
    """A stated guess for a CPU: two cores with AVX-512, measured in November 2026.

    Loads: 258 MiB in 102 ms cold and 28 ms warm; 603 MiB with repacking 263 ms warm; KV memory
    1 GiB in 500 ms, and three warm-up tokens before it opens (9 ms for a 50M, 36-55 for a 300M,
    119 for a 1.1B); decode of 258 MiB 6.6 ms at batch 1 and 28.8 ms at batch 8; prefill 674
    tokens/s; a plain q4_0 prefills at 0.44 and decodes at 0.7 of the repacked speed.  KV is copied
    at 18 GB/s and read by a step at half that.  An accelerator is taken to be ten times as fast,
    with such a CPU beside it.
    """
    weights, kv = spec.weights_bytes, spec.kv_bytes_per_token
    repack_s = spec.repacked_bytes * 4.0e-10
    plain_cold, plain_warm = Law(0.020, 3.1e-10), Law(0.010, 7.0e-11)
    slow = 2.3 if spec.repacked_bytes else 1.0
    slow_step = 1.4 if spec.repacked_bytes else 1.0
    is_fast = device.backend != "cpu"
    pace = _ACCELERATOR_PACE if is_fast else 1.0
    here = {
        WeightsForm.PLAIN: _steps(weights, kv, slow, slow_step),
        WeightsForm.REPACKED: _steps(weights, kv, 1.0, 1.0),
    }
    there = {form: _steps(weights, kv, pace, pace) for form in WeightsForm} if is_fast else here
    beside = None
    if is_fast:
        plain = here[WeightsForm.PLAIN]
        loads = {Rung.DISK: plain_cold, Rung.HOST: plain_warm}
        unwaited = UNWAITED_TOKENS if device.backend == "rpc" else 0
        beside = Beside(*plain, loads, unwaited_tokens=unwaited)
    return Profile(
        load={
            (WeightsForm.PLAIN, Rung.DISK): plain_cold,
            (WeightsForm.PLAIN, Rung.HOST): plain_warm,
            (WeightsForm.REPACKED, Rung.DISK): Law(0.020 + repack_s, 3.1e-10),
            (WeightsForm.REPACKED, Rung.HOST): Law(0.010 + repack_s, 7.0e-11),
        },
        stage=Law(0.002, 2.9e-10),
        activate=Law(0.008 + weights * 1.5e-10, 4.7e-10),
        move_kv=Law(0.001, 1.1e-10),
        deactivate_s=0.005,
        unload_s=0.010,
        drop_s=0.002,
        prefill={form: steps[0] for form, steps in there.items()},
        decode={form: steps[1] for form, steps in there.items()},
        kv_out=Law(0.0002, 5.5e-11),
        kv_in=Law(0.0002, 5.5e-11),
        beside=beside,
        head_share=spec.head_bytes / max(1, spec.head_bytes + spec.all_layers_bytes),
    )


def _steps(weights: int, kv: int, prefill: float, decode: float) -> tuple[StepLaw, StepLaw]:
    """Of prompts and of decode steps; both factors slow them down, or speed them up."""
    return (
        StepLaw(straight(0.0005, weights * 5.5e-12 * prefill), kv * 1.2e-11 * prefill),
        StepLaw(
            straight(weights * 1.25e-11 * decode, weights * 1.2e-11 * decode), kv * 1.1e-10 * decode
        ),
    )
