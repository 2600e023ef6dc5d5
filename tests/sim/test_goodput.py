"""k of n layers by harm, against all or nothing and never displacing, on published curves."""

from functools import cache

import pytest

from bench.costs.curves import RULES, SHAPES, goodput
from repertory.policy.places.offload import Rule, by_harm, fully_or_evict, offload_always


@cache
def found(name: str, rule: Rule) -> float:
    return goodput(SHAPES[name], rule)


@pytest.mark.parametrize("name", SHAPES)
def test_goodput_is_no_less_than_by_either_rule_of_thumb(name: str) -> None:
    assert found(name, by_harm) >= found(name, fully_or_evict)
    assert found(name, by_harm) >= found(name, offload_always)


def table() -> None:
    """`python tests/sim/test_goodput.py`: the figures behind the tests."""
    for name in SHAPES:
        words = "  ".join(f"{rule.__name__} {found(name, rule):7.2f}" for rule in RULES)
        print(f"{name:12}  {words}")  # noqa: T201  # a table for a person


if __name__ == "__main__":
    table()
