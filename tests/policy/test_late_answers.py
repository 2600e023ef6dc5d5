"""What models lose to each other on a device that does not hold them all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.policy.objective import late_s
from repertory.policy.places.lateness import Party, late_sum_s

SECONDS = st.floats(0.01, 1e4)


def party(size: int, *, per_s: float = 0.1, each_s: float = 2.0, share: float = 0.2) -> Party:
    return Party(10.0, per_s, each_s, share, 1.0, 3.0, size)


parties = st.lists(
    st.builds(
        party,
        st.integers(1, 100),
        per_s=st.floats(0.001, 1.0),
        each_s=SECONDS,
        share=st.floats(0.0, 2.0),
    ),
    max_size=6,
)


@given(SECONDS, SECONDS, SECONDS)
def test_an_answer_loses_more_the_longer_it_takes_and_never_more_than_it_bears(
    alone_s: float, seconds: float, more_s: float
) -> None:
    assert late_s(alone_s, seconds) <= late_s(alone_s, seconds + more_s) <= 3.0 * alone_s


@given(parties, st.integers(1, 100))
def test_one_more_never_helps_the_others_and_no_sum_exceeds_all_being_late(
    others: list[Party], size: int
) -> None:
    before = late_sum_s(others, 1.0, 100)
    after = late_sum_s([*others, party(size)], 1.0, 100)
    assert before * (1.0 - 1e-9) <= after
    assert after <= 3.0 * 10.0 * (len(others) + 1) * (1.0 + 1e-9)


def test_who_has_room_beside_the_others_switches_and_waits_for_nobody() -> None:
    beside = late_sum_s([party(50), party(50)], 3.0, 100)
    assert beside == pytest.approx(2 * 10.0 * late_s(3.0, 2.0 / (1.0 - 0.4)))


def test_who_has_no_room_beside_the_other_is_found_away_and_waits_for_its_answers() -> None:
    """Half of the requests find it away: half a switch; and a fifth of the time two seconds."""
    apart = late_sum_s([party(60), party(60)], 3.0, 100)
    share = 2 * (0.2 + 0.1 * 0.5 * 1.0)
    seconds = 2.0 + 0.5 * 1.0 + 0.2 * 2.0
    assert apart == pytest.approx(2 * 10.0 * late_s(3.0, seconds / (1.0 - share)))


def test_an_answer_counts_as_one_of_the_unit_does() -> None:
    short = party(10)._replace(alone_s=0.3, each_s=0.2, share=0.0)
    assert late_sum_s([short], 3.0, 100) == pytest.approx(10.0 * late_s(3.0, 2.0))
