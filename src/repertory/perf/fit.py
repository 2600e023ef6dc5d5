"""From readings to laws: what was measured of a model on a device, as its `Profile` there.

Laws that no reading speaks of stay those of the prior.  Of each that was fitted the profile says
how far it is off at its own readings, or how far repeats lay apart, whichever is more.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from repertory.domain.ladder import Rung
from repertory.domain.readings import Crowd, DeviceReadings, StepReading, spread, typical_s
from repertory.domain.specs import KvShape, ModelSpec, WeightsForm
from repertory.perf.bytes import kv_bytes
from repertory.perf.divided import here_s, prompt_share
from repertory.perf.profiles import (
    ACTIVATE,
    DECODE_KEYS,
    LOAD_KEYS,
    PREFILL_KEYS,
    Beside,
    Curve,
    Key,
    Law,
    Profile,
    StepLaw,
)

__all__ = [
    "Held",
    "Measured",
    "buffers_of",
    "corrected",
    "factors",
    "fit_law",
    "fit_steps",
    "held_from",
    "profile_from",
]

_LONG_PROMPT_TOKENS = 128
"""From here on a prompt is computed in full chunks, and its base is a straight line."""
_TYPICAL_TOKENS, _TYPICAL_BATCH, _TYPICAL_CONTEXT = 512, 4, 2048
_TYPICAL_KV_BYTES = 64 << 20
"""Where laws of models of different sizes are compared with their priors."""

Sized = tuple[float, tuple[float, ...]]
"""Units, and the seconds of each repeat."""


def profile_from(prior: Profile, read: DeviceReadings, weights_bytes: int) -> Profile:
    """The prior, with every law replaced that readings speak of."""
    errors: dict[Key, float] = {}
    load = _loads(prior, read, weights_bytes, errors)
    activate, move_kv = _opens(prior, read, errors)
    prefill, decode = dict(prior.prefill), dict(prior.decode)
    for form in WeightsForm:
        whole = [one for one in read.steps if one.form is form and one.share >= 1.0]
        for laws, keys, steps in (
            (prefill, PREFILL_KEYS, [one for one in whole if not one.decode]),
            (decode, DECODE_KEYS, [one for one in whole if one.decode]),
        ):
            if len({one.tokens for one in steps}) > 1:
                laws[form] = fit_steps(steps)
                errors[keys[form]] = _step_error(laws[form], steps)
    out = [(float(one.size_bytes), one.out_s) for one in read.kv if one.layers is None]
    back = [(float(one.size_bytes), one.in_s) for one in read.kv if one.layers is None]
    fitted = replace(
        prior,
        load=load,
        activate=activate,
        move_kv=move_kv,
        deactivate_s=_typical([one.close_s for one in read.opens], prior.deactivate_s),
        unload_s=_typical([one.unload_s for one in read.loads], prior.unload_s),
        prefill=prefill,
        decode=decode,
        kv_out=_law_or(out, prior.kv_out, ("kv", "out"), errors),
        kv_in=_law_or(back, prior.kv_in, ("kv", "in"), errors),
        crowding=_crowding(read, prior.crowding),
        errors=errors,
    )
    return replace(fitted, beside=_beside(fitted, read, weights_bytes))


def fit_law(sized: Sequence[Sized]) -> Law:
    """The line that errs least, relatively, through medians; neither coefficient is negative.

    One size says nothing of a fixed part: all of it is by the unit.
    """
    points = [(units, typical_s(seconds)) for units, seconds in sized]
    if len({units for units, _ in points}) < 2:
        return Law(0.0, median(seconds / units for units, seconds in points))
    rows = np.array([(1.0 / seconds, units / seconds) for units, seconds in points])
    wanted = np.ones(len(points))
    fixed, per_unit = (float(one) for one in np.linalg.lstsq(rows, wanted, rcond=None)[0])
    if fixed < 0.0:
        return Law(0.0, float(rows[:, 1] @ wanted / (rows[:, 1] @ rows[:, 1])))
    if per_unit < 0.0:
        return Law(float(rows[:, 0] @ wanted / (rows[:, 0] @ rows[:, 0])), 0.0)
    return Law(fixed, per_unit)


def fit_steps(steps: Sequence[StepReading]) -> StepLaw:
    """The law of prompts, or of decode steps; readings of two sizes at least.

    What a pair costs is told by readings that differ in their context alone, and by long prompts,
    whose base is straight; what is left at each size is the base, point by point.
    """
    per_pair_s = _per_pair_s(steps)
    bases: dict[int, list[float]] = {}
    for one in steps:
        left_s = typical_s(one.seconds) - per_pair_s * _pairs(one)
        bases.setdefault(one.tokens, []).append(left_s)
    points = tuple((float(size), max(0.0, median(bases[size]))) for size in sorted(bases))
    return StepLaw(Curve(points), per_pair_s)


def _pairs(one: StepReading) -> float:
    inner = 0.0 if one.decode else one.tokens / 2.0
    return one.tokens * (one.context_tokens + inner)


def _per_pair_s(steps: Sequence[StepReading]) -> float:
    """Least squares with an intercept for each size; long prompts share one that is straight."""
    sizes = sorted({one.tokens for one in steps})
    straight = {size for size in sizes if not steps[0].decode and size >= _LONG_PROMPT_TOKENS}
    if len(straight) < 3:  # a line and a curvature need three points
        straight = set()
    free = [size for size in sizes if size not in straight]
    width = len(free) + (2 if straight else 0) + 1
    rows = np.zeros((len(steps), width))
    for row, one in zip(rows, steps, strict=True):
        if one.tokens in straight:
            row[len(free)], row[len(free) + 1] = 1.0, one.tokens
        else:
            row[free.index(one.tokens)] = 1.0
        row[-1] = _pairs(one)
        row /= typical_s(one.seconds)
    scale = max(1.0, float(np.abs(rows[:, -1]).max()))
    rows[:, -1] /= scale
    if np.linalg.matrix_rank(rows) < width:
        return 0.0  # nothing tells a pair from a token
    found = np.linalg.lstsq(rows, np.ones(len(steps)), rcond=None)[0]
    return max(0.0, float(found[-1]) / scale)


def _step_error(law: StepLaw, steps: Sequence[StepReading]) -> float:
    def predicted(one: StepReading) -> float:
        if one.decode:
            return law.decode_s(one.tokens, one.tokens * one.context_tokens)
        return law.prefill_s(one.tokens, one.context_tokens)

    return _error((predicted(one), one.seconds) for one in steps)


def _error(pairs: Iterable[tuple[float, tuple[float, ...]]]) -> float:
    """Of predictions at readings: the median deviation, or what repeats deviate by."""
    known = list(pairs)
    off = median(abs(predicted / typical_s(seconds) - 1.0) for predicted, seconds in known)
    return max(off, median(spread(seconds) for _, seconds in known))


def _typical(repeats: Iterable[tuple[float, ...]], prior_s: float) -> float:
    seconds = [one for some in repeats for one in some]
    return median(seconds) if seconds else prior_s


def _law_or(sized: Sequence[Sized], prior: Law, key: Key, errors: dict[Key, float]) -> Law:
    if not sized:
        return prior
    law = fit_law(sized)
    errors[key] = _error((law.seconds(units), seconds) for units, seconds in sized)
    return law


def _crowding(read: DeviceReadings, prior: float) -> float:
    """Cores and memory are shared, so a load never gains by company."""
    found = [
        typical_s(one.together_s) / typical_s(one.alone_s)
        for one in read.contention
        if one.load_beside is Crowd.STEPS
    ]
    return max(1.0, median(found)) if found else prior


def _loads(
    prior: Profile, read: DeviceReadings, weights_bytes: int, errors: dict[Key, float]
) -> dict[tuple[WeightsForm, Rung], Law]:
    laws = dict(prior.load)
    for (form, source), key in LOAD_KEYS.items():
        sized = [
            (float(weights_bytes), one.seconds)
            for one in read.loads
            if one.form is form and one.source is source and one.share >= 1.0
        ]
        if sized:
            laws[form, source] = _law_or(sized, laws[form, source], key, errors)
    return laws


def _opens(prior: Profile, read: DeviceReadings, errors: dict[Key, float]) -> tuple[Law, Law]:
    fresh = [(float(one.kv_bytes), one.seconds) for one in read.opens if not one.moved_tokens]
    activate = _law_or(fresh, prior.activate, ACTIVATE, errors)
    moved = []
    for one in read.opens:
        if one.moved_tokens:
            each_bytes = one.kv_bytes / (one.sequences * one.cells)
            left_s = tuple(max(1e-6, s - activate.seconds(one.kv_bytes)) for s in one.seconds)
            moved.append((one.moved_tokens * each_bytes, left_s))
    return activate, _law_or(moved, prior.move_kv, ("resize", ""), errors)


def _beside(fitted: Profile, read: DeviceReadings, weights_bytes: int) -> Beside | None:
    """What the CPU beside an accelerator takes: read with nothing on the device, or taken from what
    is left of the steps with a part of it.
    """
    form = WeightsForm.PLAIN
    partial = [one for one in read.steps if one.share < 1.0]
    if not partial or fitted.beside is None:
        return fitted.beside
    beside = fitted.beside

    def law(decode: bool, known: StepLaw) -> StepLaw:
        of_kind = [one for one in partial if one.decode is decode]
        here = [one for one in of_kind if one.share == 0.0] or _rest(fitted, of_kind, form)
        if not here:
            return known
        if len({one.tokens for one in here}) > 1:
            return fit_steps(here)
        return _like(fitted.decode[form] if decode else fitted.prefill[form], here)

    decode, prefill = law(True, beside.decode), law(False, beside.prefill)
    beside = replace(beside, decode=decode, prefill=prefill, crossing_s=0.0)
    bare = replace(fitted, beside=beside)
    more_s = [
        typical_s(one.seconds) - _step_s(bare, one) for one in partial if one.decode and one.share
    ]
    crossing_s = max(0.0, median(more_s)) if more_s else 0.0
    loads = dict(beside.load)
    for source in loads:
        here = [one for one in read.loads if one.share == 0.0 and one.source is source]
        if here:
            loads[source] = fit_law([(float(weights_bytes), one.seconds) for one in here])
    return replace(beside, load=loads, crossing_s=crossing_s)


def _step_s(profile: Profile, one: StepReading) -> float:
    if one.decode:
        context = one.tokens * one.context_tokens
        return profile.decode_s(WeightsForm.PLAIN, one.tokens, context, one.share)
    return profile.prefill_s(WeightsForm.PLAIN, one.tokens, one.context_tokens, one.share)


def _rest(fitted: Profile, steps: Sequence[StepReading], form: WeightsForm) -> list[StepReading]:
    """What all of it on the host would have taken, were crossing over free."""
    rest = []
    for one in steps:
        there_s = _step_s(fitted, replace(one, share=1.0))
        share, chunks = one.share, 1.0
        if not one.decode:
            share, chunks = prompt_share(share, fitted.head_share), fitted.chunks(one.tokens)
        seconds = tuple(here_s(share, there_s, each_s, chunks) for each_s in one.seconds)
        rest.append(replace(one, share=0.0, seconds=seconds, form=form))
    return rest


def _like(law: StepLaw, steps: Sequence[StepReading]) -> StepLaw:
    """Of one size only: as another law, so many times slower or faster."""
    ratio = median(typical_s(one.seconds) / _bare_s(law, one) for one in steps)
    return _scaled_steps(law, ratio)


def _bare_s(law: StepLaw, one: StepReading) -> float:
    if one.decode:
        return law.decode_s(one.tokens, one.tokens * one.context_tokens)
    return law.prefill_s(one.tokens, one.context_tokens)


@dataclass(frozen=True, slots=True)
class Held:
    """What a model was read to take, whatever its KV memory."""

    weights_bytes: dict[WeightsForm, int]
    """With all its layers on the device; of the forms that were read."""
    buffers_bytes: int
    """The most beyond weights and KV while it served; 0: it was not read serving."""


def held_from(spec: ModelSpec, read: DeviceReadings) -> Held:
    """Buffers are a prior's upper bound until then: of a 50M 17 MiB of 87 that nobody takes."""
    whole = [one for one in read.memory if one.layers is None]
    weights = {one.form: one.measured_bytes for one in whole if one.rung is Rung.DEVICE}
    beyond = [
        one.measured_bytes - weights[one.form] - kv_bytes(spec, KvShape(one.sequences, one.cells))
        for one in whole
        if one.rung is Rung.SERVING and one.form in weights
    ]
    return Held(weights, max(0, *beyond) if beyond else 0)


def buffers_of(spec: ModelSpec, read: DeviceReadings, kv: KvShape) -> int | None:
    """Beyond weights and KV, of the next larger shape that was read, or else of the largest."""
    held = {
        one.form: one.measured_bytes
        for one in read.memory
        if one.rung is Rung.DEVICE and one.layers is None
    }
    found = sorted(
        (one.sequences * one.cells, one.measured_bytes - held[one.form])
        for one in read.memory
        if one.rung is Rung.SERVING and one.layers is None and one.form in held
    )
    fits = [pair for pair in found if pair[0] >= kv.tokens] or found[-1:]
    if not fits:
        return None
    tokens, more_bytes = fits[0]
    return max(0, more_bytes - tokens * spec.kv_bytes_per_token)


@dataclass(frozen=True, slots=True)
class Measured:
    """A model that was read on a device: what was taken for granted of it, and what it is."""

    spec: ModelSpec
    backend: str
    prior: Profile
    fitted: Profile


def factors(measured: Iterable[Measured]) -> dict[tuple[str, Key], float]:
    """How laws that were read stand to their priors, by backend and key: the median over models.

    What was measured of some models says more of the others on this machine than a prior does.
    """
    found: dict[tuple[str, Key], list[float]] = {}
    for one in measured:
        for key in sorted(one.fitted.errors):
            read_s, prior_s = _at(one.fitted, one.spec, key), _at(one.prior, one.spec, key)
            if read_s is not None and prior_s:
                found.setdefault((one.backend, key), []).append(read_s / prior_s)
    return {key: median(ratios) for key, ratios in found.items()}


def corrected(prior: Profile, backend: str, known: Mapping[tuple[str, Key], float]) -> Profile:
    """The prior of a model that was never measured, on a machine where others were."""

    def by(key: Key) -> float:
        return known.get((backend, key), 1.0)

    return replace(
        prior,
        load={way: _scaled(law, by(LOAD_KEYS[way])) for way, law in prior.load.items()},
        activate=_scaled(prior.activate, by(ACTIVATE)),
        prefill={
            form: _scaled_steps(law, by(PREFILL_KEYS[form])) for form, law in prior.prefill.items()
        },
        decode={
            form: _scaled_steps(law, by(DECODE_KEYS[form])) for form, law in prior.decode.items()
        },
        kv_out=_scaled(prior.kv_out, by(("kv", "out"))),
        kv_in=_scaled(prior.kv_in, by(("kv", "in"))),
    )


def _scaled(law: Law, by: float) -> Law:
    return Law(law.fixed_s * by, law.per_unit_s * by)


def _scaled_steps(law: StepLaw, by: float) -> StepLaw:
    points = tuple((units, seconds * by) for units, seconds in law.base.points)
    return StepLaw(Curve(points), law.per_pair_s * by)


def _at(profile: Profile, spec: ModelSpec, key: Key) -> float | None:
    """Seconds by that law for something of a usual size; None: nothing of the kind is compared."""
    kind, variant = key
    match kind:
        case "load":
            form, source = variant.split("/")
            return profile.load[WeightsForm(form), Rung(source)].seconds(spec.weights_bytes)
        case "prefill":
            return profile.prefill_s(WeightsForm(variant), _TYPICAL_TOKENS)
        case "decode":
            return profile.decode_s(WeightsForm(variant), _TYPICAL_BATCH, _TYPICAL_CONTEXT)
        case "activate":
            return profile.activate.seconds(_TYPICAL_KV_BYTES)
        case "kv":
            law = profile.kv_out if variant == "out" else profile.kv_in
            return law.seconds(_TYPICAL_KV_BYTES)
    return None
