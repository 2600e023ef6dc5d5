"""What programs do that have no curve: the rules that ours is compared with."""

from collections.abc import Sequence

import pytest

from repertory.policy.places.offload import (
    Rule,
    Way,
    by_harm,
    evict_then_most,
    fully_or_evict,
    offload_always,
)

WAYS = (Way(1.0, True), Way(0.4, False), Way(0.7, True), Way(0.0, False))


@pytest.mark.parametrize(
    ("rule", "fits_whole", "chosen"),
    [
        (by_harm, True, [0, 1, 2, 3]),
        (fully_or_evict, True, [0]),
        (fully_or_evict, False, [3]),
        (evict_then_most, True, [0]),
        (offload_always, True, [1]),
        (offload_always, False, [1]),
    ],
)
def test_what_each_rule_lets_be_chosen(rule: Rule, fits_whole: bool, chosen: Sequence[int]) -> None:
    assert list(rule(WAYS, fits_whole)) == chosen


def test_what_never_fits_gets_as_many_layers_as_others_can_make_room_for() -> None:
    assert list(evict_then_most(WAYS[1:], False)) == [1]


def test_where_there_are_no_cores_any_way_is_better_than_none() -> None:
    assert list(fully_or_evict((Way(0.4, False),), False)) == [0]
