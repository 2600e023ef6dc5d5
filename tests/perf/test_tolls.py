"""What a busy server and its clients add to a worker's costs, by figures by hand."""

import pytest

from repertory.domain.fleets import Toll
from repertory.domain.specs import DeviceSpec, WeightsForm
from repertory.perf.profiles import Curve, Profile, StepLaw, prior_profile
from repertory.perf.tolls import beside_server
from worlds import GIB, model

PLAIN = WeightsForm.PLAIN
TOLL = Toll(step_s=0.0005)


@pytest.fixture
def bare() -> Profile:
    known = prior_profile(model("a", GIB // 4), DeviceSpec("dev0", 8 * GIB, cores=2))
    prefill = StepLaw(Curve(((50.0, 0.050), (150.0, 0.150))), 1e-8)
    decode = StepLaw(Curve(((1.0, 0.002), (4.0, 0.008), (8.0, 0.016))), 1e-7)
    known.prefill[PLAIN], known.decode[PLAIN] = prefill, decode
    return known


def test_a_decode_step_pays_once_however_many_are_in_it(bare: Profile) -> None:
    law, was = beside_server(bare, TOLL).decode[PLAIN], bare.decode[PLAIN]
    for batch in (1, 3, 8, 12):
        more_s = law.decode_s(batch, 100) - was.decode_s(batch, 100)
        assert more_s == pytest.approx(0.0005)


def test_what_a_prompt_and_a_request_take_more_is_no_part_of_the_laws(bare: Profile) -> None:
    assert beside_server(bare, Toll(prompt_s=0.004, request_s=0.009)) == bare


def test_all_steps_go_at_its_pace(bare: Profile) -> None:
    slow = beside_server(bare, Toll(pace=1.5))
    for context in (0, 1000):
        decode_s = bare.decode[PLAIN].decode_s(4, context)
        assert slow.decode[PLAIN].decode_s(4, context) == pytest.approx(1.5 * decode_s)
        prefill_s = bare.prefill[PLAIN].prefill_s(100, context)
        assert slow.prefill[PLAIN].prefill_s(100, context) == pytest.approx(1.5 * prefill_s)
    assert slow.activate == bare.activate


def test_without_a_toll_nothing_changes(bare: Profile) -> None:
    assert beside_server(bare, Toll()) == bare
