"""Readings become laws: what a law said when it was read is what is fitted."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.core.costbook import CostBook
from repertory.domain.ladder import Rung
from repertory.domain.readings import (
    ContentionReading,
    Crowd,
    DeviceReadings,
    KvReading,
    LoadReading,
    MemoryReading,
    OpenReading,
    StepReading,
)
from repertory.domain.specs import DeviceSpec, KvShape, Placement, WeightsForm
from repertory.perf.bytes import kv_bytes
from repertory.perf.costs import Estimated, Profiled
from repertory.perf.fit import (
    Measured,
    corrected,
    factors,
    fit_law,
    fit_steps,
    held_from,
    profile_from,
)
from repertory.perf.profiles import Curve, Law, Profile, StepLaw, prior_profile, straight
from worlds import GIB, MIB, model

PLAIN = WeightsForm.PLAIN
CPU = DeviceSpec("cpu0", 8 * GIB, cores=2)
CARD = DeviceSpec("gpu0", 8 * GIB, backend="cuda")
HERE, THERE = Placement((CPU.id,)), Placement((CARD.id,))
LENGTHS = (8, 32, 128, 256, 512, 1024)


def read_step(
    profile: Profile, *, decode: bool, tokens: int, context: int, share: float = 1.0
) -> StepReading:
    if decode:
        seconds = profile.decode_s(PLAIN, tokens, tokens * context, share)
    else:
        seconds = profile.prefill_s(PLAIN, tokens, context, share)
    batch, layers = tokens if decode else 1, None if share == 1.0 else round(16 * share)
    return StepReading(decode, PLAIN, layers, share, batch, tokens, context, (seconds,) * 3)


def read_steps(profile: Profile, share: float = 1.0) -> list[StepReading]:
    prompts = [(tokens, 0) for tokens in LENGTHS] + [(128, 1024)]
    steps = [(batch, context) for batch in (1, 2, 4, 8) for context in (64, 1024)]
    return [
        read_step(profile, decode=False, tokens=tokens, context=context, share=share)
        for tokens, context in prompts
    ] + [
        read_step(profile, decode=True, tokens=batch, context=context, share=share)
        for batch, context in steps
    ]


def test_a_curve_is_straight_between_points_and_goes_on_along_its_last_pieces() -> None:
    curve = Curve(((1.0, 1.0), (2.0, 3.0), (4.0, 4.0)))
    assert [curve.seconds(x) for x in (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)] == [
        0.0,
        1.0,
        2.0,
        3.0,
        3.5,
        4.0,
        5.0,
    ], "and is never negative"


@given(fixed=st.floats(0.0, 1.0), per_unit=st.floats(1e-6, 1.0))
def test_a_line_through_exact_readings_is_that_line(fixed: float, per_unit: float) -> None:
    law = fit_law([(x, (fixed + per_unit * x,) * 3) for x in (1.0, 10.0, 100.0)])
    assert law.seconds(50.0) == pytest.approx(fixed + per_unit * 50.0, rel=1e-6)


def test_no_coefficient_is_negative_and_one_size_says_nothing_of_a_fixed_part() -> None:
    falling = fit_law([(1.0, (3.0,)), (2.0, (2.0,))])
    assert falling.per_unit_s == 0.0
    assert falling.fixed_s > 0.0
    steep = fit_law([(1.0, (1.0,)), (2.0, (4.0,))])
    assert steep.fixed_s == 0.0
    assert fit_law([(4.0, (2.0, 2.0))]) == Law(0.0, 0.5)


@settings(max_examples=50)
@given(
    fixed=st.floats(1e-4, 1e-1),
    per_token=st.floats(1e-5, 1e-2),
    per_pair=st.floats(1e-9, 1e-6),
)
def test_steps_that_a_law_took_give_that_law(
    fixed: float, per_token: float, per_pair: float
) -> None:
    law = StepLaw(straight(fixed, per_token), per_pair)
    profile = prior_profile(model("a"), CPU)
    prompts = read_steps(_with(profile, law))
    for decode in (False, True):
        found = fit_steps([one for one in prompts if one.decode is decode])
        for tokens, context in ((1, 0), (3, 500), (6, 2000)):
            if decode:
                wanted = law.decode_s(tokens, tokens * context)
                assert found.decode_s(tokens, tokens * context) == pytest.approx(wanted, rel=1e-3)
        if not decode:
            assert found.prefill_s(700, 300) == pytest.approx(law.prefill_s(700, 300), rel=1e-3)


def _with(profile: Profile, law: StepLaw) -> Profile:
    laws = dict.fromkeys(WeightsForm, law)
    return Profile(
        profile.load,
        profile.stage,
        profile.activate,
        profile.move_kv,
        profile.deactivate_s,
        profile.unload_s,
        profile.drop_s,
        laws,
        laws,
        profile.kv_out,
        profile.kv_in,
        profile.beside,
    )


def read_all(profile: Profile, weights_bytes: int, device: DeviceSpec) -> DeviceReadings:
    """What a meter would read where that profile holds."""
    loads = [
        LoadReading(
            PLAIN,
            source,
            None,
            1.0,
            weights_bytes,
            (profile.load_s(PLAIN, source, weights_bytes),) * 3,
            (profile.unload_s,),
        )
        for source in (Rung.DISK, Rung.HOST)
    ]
    opens = [
        OpenReading(4, cells, 4 * cells * 32768, (profile.activate.seconds(4 * cells * 32768),) * 3)
        for cells in (256, 1024, 4096)
    ]
    kv = [
        KvReading(
            tokens,
            tokens * 32768,
            None,
            (profile.kv_out.seconds(tokens * 32768),),
            (profile.kv_in.seconds(tokens * 32768),),
        )
        for tokens in (128, 1024)
    ]
    return DeviceReadings(
        device.id,
        device.backend,
        device.cores,
        tuple(loads),
        tuple(opens),
        tuple(read_steps(profile)),
        tuple(kv),
    )


def slowed(profile: Profile, by: float) -> Profile:
    """A machine so many times slower."""

    def law(one: Law) -> Law:
        return Law(one.fixed_s * by, one.per_unit_s * by)

    def steps(one: StepLaw) -> StepLaw:
        points = tuple((units, seconds * by) for units, seconds in one.base.points)
        return StepLaw(Curve(points), one.per_pair_s * by)

    return Profile(
        {way: law(one) for way, one in profile.load.items()},
        law(profile.stage),
        law(profile.activate),
        law(profile.move_kv),
        profile.deactivate_s * by,
        profile.unload_s * by,
        profile.drop_s * by,
        {form: steps(one) for form, one in profile.prefill.items()},
        {form: steps(one) for form, one in profile.decode.items()},
        law(profile.kv_out),
        law(profile.kv_in),
    )


def test_a_profile_says_what_was_read_and_how_far_it_is_off() -> None:
    spec = model("a", 2 * GIB)
    prior = prior_profile(spec, CPU)
    truth = slowed(prior, 3.0)
    fitted = profile_from(prior, read_all(truth, spec.weights_bytes, CPU), spec.weights_bytes)
    for form, source in ((PLAIN, Rung.DISK), (PLAIN, Rung.HOST)):
        assert fitted.load_s(form, source, spec.weights_bytes) == pytest.approx(
            truth.load_s(form, source, spec.weights_bytes)
        )
    assert fitted.decode_s(PLAIN, 3, 3 * 700) == pytest.approx(truth.decode_s(PLAIN, 3, 3 * 700))
    assert fitted.prefill_s(PLAIN, 300) == pytest.approx(truth.prefill_s(PLAIN, 300))
    assert fitted.activate.seconds(64 * MIB) == pytest.approx(truth.activate.seconds(64 * MIB))
    assert fitted.kv_in.seconds(16 * MIB) == pytest.approx(truth.kv_in.seconds(16 * MIB))
    assert fitted.unload_s == pytest.approx(truth.unload_s)
    assert max(fitted.errors.values()) < 1e-6
    repacked = (WeightsForm.REPACKED, Rung.DISK)
    assert fitted.load[repacked] == prior.load[repacked], "nothing was read of it"
    assert ("load", "repacked/disk") not in fitted.errors


def test_outliers_among_repeats_are_seen_as_spread_and_do_not_move_the_law() -> None:
    spec, luck = model("a"), random.Random(3)
    prior = prior_profile(spec, CPU)
    noisy = [
        StepReading(
            True,
            PLAIN,
            None,
            1.0,
            batch,
            batch,
            64,
            tuple(
                prior.decode_s(PLAIN, batch, 64 * batch) * factor
                for factor in (1.0, 1.0, luck.uniform(2.0, 7.0))
            ),
        )
        for batch in (1, 2, 4, 8)
    ]
    fitted = profile_from(prior, DeviceReadings("cpu0", "cpu", 2, steps=tuple(noisy)), GIB)
    assert fitted.decode_s(PLAIN, 4, 256) == pytest.approx(prior.decode_s(PLAIN, 4, 256), rel=1e-6)
    assert fitted.errors["decode", "plain"] > 0.5


@pytest.mark.parametrize("has_bare_host", [True, False])
def test_what_the_host_beside_a_card_takes_is_read_or_taken_from_what_is_left(
    has_bare_host: bool,
) -> None:
    spec = model("a", head_bytes=GIB // 8)
    truth = prior_profile(spec, CARD)
    assert truth.beside is not None
    shares = (0.0, 0.5, 1.0) if has_bare_host else (0.4, 0.7, 1.0)
    steps = [one for share in shares for one in read_steps(truth, share)]
    read = DeviceReadings(CARD.id, CARD.backend, 0, steps=tuple(steps))
    blank = slowed(prior_profile(spec, CPU), 50.0)
    fitted = profile_from(
        Profile(
            *(getattr(blank, name) for name in _FIELDS),
            beside=truth.beside.__class__(
                blank.prefill[PLAIN], blank.decode[PLAIN], truth.beside.load
            ),
            head_share=truth.head_share,
        ),
        read,
        spec.weights_bytes,
    )
    for share in (0.0, 0.2, 0.9):
        assert fitted.decode_s(PLAIN, 1, 300, share) == pytest.approx(
            truth.decode_s(PLAIN, 1, 300, share), rel=1e-3
        )
        assert fitted.prefill_s(PLAIN, 600, 0, share) == pytest.approx(
            truth.prefill_s(PLAIN, 600, 0, share), rel=1e-3
        )


_FIELDS = (
    "load",
    "stage",
    "activate",
    "move_kv",
    "deactivate_s",
    "unload_s",
    "drop_s",
    "prefill",
    "decode",
    "kv_out",
    "kv_in",
)


def test_what_was_measured_of_one_model_says_more_of_another_than_a_prior_does() -> None:
    known, other = model("a", 2 * GIB), model("b", GIB)
    prior = prior_profile(known, CPU)
    read = read_all(slowed(prior, 3.0), known.weights_bytes, CPU)
    fitted = profile_from(prior, read, known.weights_bytes)
    found = factors([Measured(known, "cpu", prior, fitted)])
    guess = corrected(prior_profile(other, CPU), "cpu", found)
    wanted = slowed(prior_profile(other, CPU), 3.0)
    assert guess.load_s(PLAIN, Rung.HOST, GIB) == pytest.approx(
        wanted.load_s(PLAIN, Rung.HOST, GIB), rel=0.05
    )
    assert guess.decode_s(PLAIN, 4, 2048) == pytest.approx(wanted.decode_s(PLAIN, 4, 2048))
    assert guess.errors == {}, "it was never measured itself"
    card = prior_profile(other, CARD)
    assert corrected(card, "cuda", found) == card, "another backend"


def test_a_cost_book_starts_from_readings_and_says_so_until_it_has_seen_for_itself() -> None:
    spec, other = model("a", 2 * GIB), model("b")
    prior = prior_profile(spec, CPU)
    costs = CostBook()
    for one in (spec, other):
        costs.add(one)
    costs.add_device(CPU)
    before = costs.load(other, HERE, Rung.HOST)
    costs.add_readings(spec.digest, read_all(slowed(prior, 3.0), spec.weights_bytes, CPU))
    said = costs.load(spec, HERE, Rung.HOST)
    assert isinstance(said, Profiled)
    assert said.basis == "profile"
    assert said.seconds == pytest.approx(3.0 * prior.load_s(PLAIN, Rung.HOST, spec.weights_bytes))
    unknown = costs.load(other, HERE, Rung.HOST)
    assert unknown == Estimated(pytest.approx(3.0 * before.seconds)), "what was read of the first"
    costs.observe_load(spec, HERE, Rung.HOST, 2.0 * said.seconds)
    assert costs.load(spec, HERE, Rung.HOST).basis == "measured"
    assert costs.load(other, HERE, Rung.HOST) == unknown, (
        "how a model stands to its own readings says nothing of another's prior"
    )


def test_costs_are_kept_by_device() -> None:
    spec, costs = model("a"), CostBook()
    for device in (CPU, CARD):
        costs.add_device(device)
    kv = KvShape(1, 256)
    assert costs.work_s(spec, THERE, 100, 100) < costs.work_s(spec, HERE, 100, 100)
    costs.observe_load(spec, HERE, Rung.HOST, 5.0)
    assert costs.load_s(spec, HERE, Rung.HOST) == pytest.approx(5.0)
    assert costs.load(spec, THERE, Rung.HOST).basis == "prior"
    other = model("b")
    assert costs.load_s(other, THERE, Rung.HOST) < 0.1, "nor do a CPU's ratios hold for a card"
    assert costs.activate(spec, THERE, kv).error > 0.0


def test_a_part_of_the_layers_costs_its_share_there_and_the_rest_here() -> None:
    spec, costs = model("a", layers=16), CostBook()
    costs.add_device(CARD)
    paces = [
        costs.step_s(spec, Placement((CARD.id,), layers=layers), 1, 100)
        for layers in (0, 8, 15, None)
    ]
    assert paces == sorted(paces, reverse=True)
    assert paces[1] == pytest.approx((paces[0] + paces[3]) / 2)


def test_bytes_that_were_read_replace_the_bounds_of_a_prior() -> None:
    spec = model("a", 100 * MIB)
    shapes = (KvShape(1, 256), KvShape(4, 1024))
    memory = [
        MemoryReading(Rung.DEVICE, PLAIN, None, 0, 0, 100 * MIB, 103 * MIB),
        *(
            MemoryReading(
                Rung.SERVING,
                PLAIN,
                None,
                kv.sequences,
                kv.cells,
                0,
                103 * MIB + kv_bytes(spec, kv) + extra,
            )
            for kv, extra in zip(shapes, (5 * MIB, 6 * MIB), strict=True)
        ),
        MemoryReading(Rung.DEVICE, PLAIN, 3, 0, 0, 20 * MIB, 20 * MIB),
    ]
    held = held_from(spec, DeviceReadings("cpu0", "cpu", 2, memory=tuple(memory)))
    assert held.weights_bytes == {PLAIN: 103 * MIB}
    assert held.buffers_bytes == 6 * MIB
    assert held_from(spec, DeviceReadings("cpu0", "cpu", 2)).buffers_bytes == 0


def test_a_load_beside_decode_steps_takes_longer_by_what_was_read() -> None:
    spec = model("a", 2 * GIB)
    prior = prior_profile(spec, CPU)
    read = read_all(prior, spec.weights_bytes, CPU)
    felt = (
        ContentionReading("load, while b decodes", (1.0, 1.0), (1.5, 1.4, 1.6), Crowd.STEPS),
        ContentionReading("load, during that of b", (1.0,), (9.0,), Crowd.LOAD),
        ContentionReading("a step of b, during loads", (1.0,), (3.0,)),
    )
    costs = CostBook()
    costs.add(spec)
    costs.add_device(CPU)
    costs.add_readings(spec.digest, replace(read, contention=felt))
    alone_s = costs.load_s(spec, HERE, Rung.HOST)
    assert costs.load_s(spec, HERE, Rung.HOST, is_crowded=True) == pytest.approx(1.5 * alone_s)
    costs.observe_load(spec, HERE, Rung.HOST, 1.5 * alone_s, is_crowded=True)
    assert costs.load_s(spec, HERE, Rung.HOST) == pytest.approx(alone_s), "it teaches nothing new"
