"""Copied back or computed again: the quicker by what was measured."""

from hypothesis import given
from hypothesis import strategies as st

from repertory.perf.profiles import Law
from repertory.policy.requests.regain import Pace, Spared, spared_of, way_back, worth_saving

MIB = 1 << 20
COPY = Law(1e-4, 1e-10)
PACE = Pace(chunk=Law(1e-3, 1e-7), step=Law(1e-2, 1e-6))


def test_spared_places_are_of_chunks_first_then_one_by_one() -> None:
    assert spared_of(0, 500, 300) == Spared(0, 300, 500)
    assert spared_of(128, 256, 300) == Spared(128, 256, 256)
    assert spared_of(400, 500, 300) == Spared(400, 400, 500)


def test_a_replay_token_by_token_takes_longer_than_one_in_chunks() -> None:
    """Mode `exact`: what came one by one comes again one by one."""
    assert spared_of(0, 500, 300).seconds(PACE) > 3 * spared_of(0, 500, 500).seconds(PACE)


def test_computing_far_into_a_context_takes_longer() -> None:
    assert Spared(8000, 8128, 8128).seconds(PACE) > Spared(0, 128, 128).seconds(PACE)


def test_the_quicker_one_is_chosen() -> None:
    spared = Spared(0, 128, 128)
    there = way_back(MIB, spared, (COPY,), PACE)
    assert there.restores
    assert there.restore_s is not None
    assert there.replay_s is not None
    assert there.restore_s < there.replay_s
    slow = Law(1.0, 1e-8)
    again = way_back(MIB, spared, (COPY, slow), PACE)
    assert not again.restores
    assert "computing is quicker" in again.why


def test_what_nobody_has_measured_is_tried() -> None:
    spared = Spared(0, 128, 128)
    slow = Law(1e9, 1.0)
    assert way_back(MIB, spared, (slow,), None).restores
    assert way_back(MIB, spared, (slow, None), PACE).restores
    assert "nobody has measured" in way_back(MIB, spared, (slow,), None).why


def test_saving_pays_for_both_copies() -> None:
    spared = Spared(0, 128, 128)
    replay_s = spared.seconds(PACE)
    most_of_it = Law(0.6 * replay_s, 0.0)
    assert way_back(MIB, spared, (most_of_it,), PACE).restores
    assert not worth_saving(MIB, spared, most_of_it, (most_of_it,), PACE).restores


LAWS = st.builds(Law, st.floats(0.0, 1.0), st.floats(0.0, 1e-6))
PACES = st.builds(Pace, LAWS, LAWS)
PLACES = st.lists(st.integers(0, 100_000), min_size=3, max_size=3).map(sorted)


@given(size=st.integers(1, 1 << 40), places=PLACES, copy=LAWS, pace=PACES)
def test_no_way_is_chosen_that_is_predicted_to_take_longer(
    size: int, places: list[int], copy: Law, pace: Pace
) -> None:
    way = way_back(size, Spared(*places), (copy,), pace)
    assert way.restore_s is not None
    assert way.replay_s is not None
    chosen, other = way.restore_s, way.replay_s
    if not way.restores:
        chosen, other = other, chosen
    assert chosen <= other
