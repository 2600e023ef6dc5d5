"""What is read off an engine that keeps known laws is these laws."""

from collections.abc import Sequence

import pytest
from measuring import CARD, CORES, NODE, ONE, TWO, known_profile, measured

from repertory.domain.ladder import Rung
from repertory.domain.readings import DeviceReadings, Readings
from repertory.domain.specs import WeightsForm
from repertory.perf.bytes import share_there
from repertory.perf.fit import profile_from
from repertory.perf.profiles import prior_profile
from worlds import GIB

LAW = known_profile(ONE.spec, CORES)


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> Readings:
    return measured(tmp_path_factory.mktemp("profiles") / "one.json").file.readings


@pytest.fixture(scope="module")
def cores(readings: Readings) -> DeviceReadings:
    (found,) = [one for one in readings.devices if one.device == CORES.id]
    return found


@pytest.fixture(scope="module")
def card(readings: Readings) -> DeviceReadings:
    (found,) = [one for one in readings.devices if one.device == CARD.id]
    return found


def all_are(seconds: Sequence[float], expected_s: float) -> bool:
    return seconds == pytest.approx([expected_s] * len(seconds), rel=1e-6)


def test_what_it_holds_for(readings: Readings) -> None:
    assert readings.model == "one"
    assert readings.weights_bytes == GIB
    assert readings.head_bytes == GIB // 8
    assert readings.kv_bytes_per_token == ONE.spec.kv_bytes_per_token
    assert [one.device for one in readings.devices] == ["cpu0", "gpu0"]


def test_loads_by_form_and_rung(cores: DeviceReadings) -> None:
    read = {(one.form, one.source): one for one in cores.loads}
    assert read.keys() == {(form, rung) for form in WeightsForm for rung in (Rung.HOST, Rung.DISK)}
    for way, one in read.items():
        assert all_are(one.seconds, LAW.load[way].seconds(GIB))
        assert all_are(one.unload_s, LAW.unload_s)
        assert len(one.seconds) >= 3


def test_contexts_by_size(cores: DeviceReadings) -> None:
    fresh = [one for one in cores.opens if not one.moved_tokens]
    assert [(one.sequences, one.cells) for one in fresh] == [(1, 256), (4, 2048)]
    for one in fresh:
        assert all_are(one.seconds, LAW.activate.seconds(one.kv_bytes))
        assert all_are(one.close_s, LAW.deactivate_s)


def test_a_resize_carries_its_tokens_along(cores: DeviceReadings) -> None:
    (grown,) = [one for one in cores.opens if one.moved_tokens]
    assert (grown.moved_tokens, grown.cells) == (255, 1024)
    both = LAW.activate.seconds(grown.kv_bytes) + LAW.move_kv.seconds(grown.kv_bytes)
    assert all_are(grown.seconds, both)


@pytest.mark.parametrize("form", WeightsForm)
def test_prompts_by_length(cores: DeviceReadings, form: WeightsForm) -> None:
    read = [one for one in cores.steps if not one.decode and one.form is form]
    assert [one.tokens for one in read] == [50, 300, 500, 1000]
    for one in read:
        assert all_are(one.seconds, LAW.prefill_s(form, one.tokens))


@pytest.mark.parametrize("form", WeightsForm)
def test_decode_steps_by_batch_and_context(cores: DeviceReadings, form: WeightsForm) -> None:
    read = [one for one in cores.steps if one.decode and one.form is form]
    assert [one.batch for one in read] == [1, 2, 8, 1, 2]
    for one in read:
        assert one.context_tokens >= 64
        law_s = LAW.decode_s(form, one.batch, one.batch * one.context_tokens)
        assert one.seconds == pytest.approx([law_s] * len(one.seconds), rel=0.01)


def test_steps_by_the_share_of_the_layers(card: DeviceReadings) -> None:
    law = known_profile(ONE.spec, CARD)
    half = share_there(ONE.spec, 8)
    assert {one.share for one in card.steps} == {0.0, half, 1.0}
    for one in (one for one in card.steps if one.layers == 8):
        if one.decode:
            law_s = law.decode_s(one.form, 1, one.context_tokens, half)
        else:
            law_s = law.prefill_s(one.form, one.tokens, 0, half)
        assert one.seconds == pytest.approx([law_s] * len(one.seconds), rel=0.01)


def test_with_no_layer_there_it_is_the_cores_that_compute(card: DeviceReadings) -> None:
    for one in (one for one in card.steps if one.share == 0.0 and not one.decode):
        assert all_are(one.seconds, LAW.prefill_s(WeightsForm.PLAIN, one.tokens))
    assert {one.source for one in card.loads if one.share == 0.0} == {Rung.HOST, Rung.DISK}


def test_a_preemption_is_its_parts(cores: DeviceReadings) -> None:
    leaves, stays = cores.cycles
    other = known_profile(TWO.spec, CORES)
    way = (WeightsForm.PLAIN, Rung.HOST)
    assert (leaves.claimant, leaves.claimant_bytes) == ("two", TWO.spec.weights_bytes)
    assert (leaves.point_tokens, leaves.stays, stays.stays) == (200, False, True)
    kv_bytes = 512 * ONE.spec.kv_bytes_per_token
    context_s = LAW.activate.seconds(kv_bytes)
    up_s = other.load[way].seconds(TWO.spec.weights_bytes)
    up_s += other.activate.seconds(256 * TWO.spec.kv_bytes_per_token)
    for cycle in (leaves, stays):
        assert all_are(cycle.switch_s, up_s)
        assert all_are(cycle.release_s, other.deactivate_s + other.unload_s)
        assert cycle.reused_tokens == 0  # the fake computes everything again
        assert min(cycle.first_token_s) >= LAW.prefill_s(WeightsForm.PLAIN, 200) * 0.99
    assert all_are(leaves.unload_s, LAW.deactivate_s + LAW.unload_s)
    assert all_are(leaves.load_s, LAW.load[way].seconds(GIB) + context_s)
    assert all_are(stays.unload_s, LAW.deactivate_s)
    assert all_are(stays.load_s, context_s)


def test_a_load_waits_for_another_and_for_no_decode_step(cores: DeviceReadings) -> None:
    """The fake has one mover, and its steps go on beside it."""
    read = {one.what: one for one in cores.contention}
    way = (WeightsForm.PLAIN, Rung.HOST)
    own_s = LAW.load[way].seconds(GIB)
    other_s = known_profile(TWO.spec, CORES).load[way].seconds(TWO.spec.weights_bytes)
    two = read["load, during a load of two"]
    assert all_are(two.alone_s, own_s)
    assert all_are(two.together_s, own_s + other_s)
    beside = read["load, while two decodes"]
    assert all_are(beside.alone_s + beside.together_s, own_s)
    steps = read["decode step of two, during loads"]
    assert steps.together_s == pytest.approx([steps.alone_s[0]] * len(steps.together_s), rel=0.05)


def test_memory_as_the_ledger_reserves_it(cores: DeviceReadings) -> None:
    assert {one.rung for one in cores.memory} == {Rung.DEVICE, Rung.SERVING}
    assert all(one.predicted_bytes == one.measured_bytes for one in cores.memory)


def test_the_laws_that_are_made_of_it_predict_it(readings: Readings) -> None:
    """From an engine through its readings to a `Profile`, and back."""
    for device in NODE.devices:
        (read,) = [one for one in readings.devices if one.device == device.id]
        law = known_profile(ONE.spec, device)
        found = profile_from(prior_profile(ONE.spec, device), read, GIB)
        for form in (WeightsForm.PLAIN, WeightsForm.REPACKED)[: 2 if device.cores else 1]:
            held_out = law.prefill_s(form, 700)
            assert found.prefill_s(form, 700) == pytest.approx(held_out, rel=0.01)
            held_out = law.decode_s(form, 2, 2 * 500)
            assert found.decode_s(form, 2, 2 * 500) == pytest.approx(held_out, rel=0.02)
        for way in ((WeightsForm.PLAIN, Rung.HOST), (WeightsForm.PLAIN, Rung.DISK)):
            assert found.load[way].seconds(GIB) == pytest.approx(law.load[way].seconds(GIB))
        assert found.activate.seconds(1e8) == pytest.approx(law.activate.seconds(1e8))
