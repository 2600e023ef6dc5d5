from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from repertory.domain.errors import ConfigError
from repertory.traces.describe import describe
from repertory.traces.files import write_workload
from repertory.traces.recipes import (
    RECIPES,
    SIZES,
    Recipe,
    default_recipe,
    find_recipe,
    is_file_name,
)
from repertory.traces.streams import DAY_S
from tests.traces.folder import DATA, with_data

_NO_DATA = ["mux-16-0.5", "mux-16", "mux-16-2", "tail-100", "week"]


def _recipe(name: str) -> Recipe:
    if name not in _NO_DATA and not DATA.is_dir():
        pytest.skip("published traces are not here: ../shared/data")
    return find_recipe(name, DATA)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_in_order_and_asks_only_for_its_models(name: str) -> None:
    recipe = _recipe(name)
    found = list(recipe.arrivals(1, requests=3_000))
    assert len(found) == 3_000
    assert all(before.at_s <= after.at_s for before, after in pairwise(found))
    names = [one.name for one in recipe.models]
    assert {one.model for one in found} <= set(names)
    assert len(names) == len(set(names))
    assert all(one.parameters == SIZES[one.size] for one in recipe.models)


@pytest.mark.parametrize("name", ["week", "tail-100", "sg-20", "az-w-1"])
def test_the_same_seed_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    recipe = _recipe(name)
    paths = [tmp_path / f"{at}.jsonl.gz" for at in range(3)]
    for path, seed in zip(paths, (7, 7, 8), strict=True):
        write_workload(path, recipe.arrivals(seed, requests=2_000))
    first, second, third = (path.read_bytes() for path in paths)
    assert first == second != third


@pytest.mark.parametrize("name", ["week", "mux-16", "az-w-2", "sg-20"])
def test_a_recipe_has_the_rate_that_it_says_and_thins_to_another(name: str) -> None:
    recipe = _recipe(name)
    for rate_per_s in (0.5, 0.1):
        count = sum(1 for _ in recipe.arrivals(2, days=(1, 2), rate_per_s=rate_per_s))
        assert recipe.expected_requests((1, 2), rate_per_s) == pytest.approx(rate_per_s * 2 * DAY_S)
        assert count == pytest.approx(rate_per_s * 2 * DAY_S, rel=0.12)


@pytest.mark.parametrize("name", ["week", "sg-20"])
def test_days_are_the_same_alone_as_among_others(name: str) -> None:
    recipe = _recipe(name)
    rate = {"rate_per_s": recipe.mean_per_s((1, 1)) / 200}
    alone = [one.model for one in recipe.arrivals(4, days=(1, 1), **rate)]
    share = rate["rate_per_s"] / recipe.mean_per_s((1, 1))
    among_rate = recipe.mean_per_s((0, 2)) * share
    among = [
        one.model
        for one in recipe.arrivals(4, days=(0, 2), rate_per_s=among_rate)
        if DAY_S <= one.at_s < 2 * DAY_S
    ]
    assert abs(len(alone) - len(among)) <= 1
    assert alone[:50] == among[:50]


@with_data
def test_sg_20_is_the_ready_mix() -> None:
    pytest.importorskip("pyarrow")
    recipe = find_recipe("sg-20", DATA)
    assert len(recipe.models) == 20
    assert recipe.days == (0, 13)
    # The sum of the mean rates in sg20.csv, plus what fills the holes of m-mid.
    assert 183 < recipe.mean_per_s((0, 13)) < 200
    found = describe(recipe.arrivals(0, days=(7, 8), rate_per_s=0.3))
    assert found.total.requests == pytest.approx(0.3 * 2 * DAY_S, rel=0.03)
    assert found.models[0].name in {"m-mid-66", "m-mid-23", "m-large-61"}


@with_data
def test_az23_is_every_request_as_it_came() -> None:
    recipe = find_recipe("az23", DATA)
    found = list(recipe.arrivals(0))
    assert len(found) == 8_819 + 19_366
    assert found == list(recipe.arrivals(9))
    assert {one.name for one in recipe.models} == {"code", "conv"}
    assert sum(one.prompt_tokens for one in found if one.model == "code") == 18_059_974
    # The code service's first request came 77 s after the other's.
    first = next(one for one in found if one.model == "code")
    assert first.at_s - found[0].at_s == pytest.approx(77.299370)
    with pytest.raises(ConfigError, match="no days to choose from"):
        recipe.arrivals(0, days=(0, 1))


@with_data
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_az_w_shares_its_rate_by_a_power_law(alpha: float) -> None:
    recipe = find_recipe(f"az-w-{alpha:g}", DATA)
    found = describe(recipe.arrivals(0, days=(0, 6), rate_per_s=0.5))
    shares = np.array([one.share for one in found.models])
    law = np.arange(1, 8) ** -alpha
    assert shares == pytest.approx(law / law.sum(), rel=0.15)
    assert len(recipe.models) == 7


def test_tail_100_gives_94_models_1_35_percent() -> None:
    found = describe(find_recipe("tail-100").arrivals(0, days=(0, 2), rate_per_s=2.0))
    tail = {f"tail-{at:03}" for at in range(6, 100)}
    share = sum(one.share for one in found.models if one.name in tail)
    assert share == pytest.approx(0.0135, rel=0.15)


def test_mux_16_has_the_lengths_of_its_paper() -> None:
    found = describe(find_recipe("mux-16").arrivals(0, requests=60_000))
    assert found.total.prompt_mean_tokens == pytest.approx(161, rel=0.03)
    assert found.total.output_mean_tokens == pytest.approx(337, rel=0.03)
    assert found.total.gap_cv == pytest.approx(1.0, abs=0.03)


def test_week_has_streams_of_four_kinds() -> None:
    found = describe(find_recipe("week").arrivals(0, days=(0, 2)))
    by_name = {one.name: one for one in found.models}
    assert len(by_name) == 12
    assert by_name["steady-route"].gap_cv == pytest.approx(0.8, rel=0.05)
    assert by_name["daily-code"].peak_per_s > 2 * by_name["daily-code"].mean_per_s
    assert by_name["bursty-eval"].gap_cv > 5  # type: ignore[operator]
    assert by_name["sporadic-lab"].longest_gap_s > 6 * 3600  # type: ignore[operator]


def test_without_data_the_default_is_our_own_week() -> None:
    assert default_recipe(None) == "week"
    assert default_recipe(DATA) == "sg-20"
    for name in _NO_DATA:
        assert find_recipe(name).models
    for name in RECIPES.keys() - set(_NO_DATA):
        with pytest.raises(ConfigError, match=r"--data DIR or REPERTORY_DATA"):
            find_recipe(name)
    with pytest.raises(ConfigError, match="there is no such folder"):
        find_recipe("sg-20", Path("nowhere"))


@pytest.mark.parametrize(
    ("days", "rate_per_s", "words"),
    [
        ((3, 2), None, "in order, and not 3-2"),
        ((-1, 2), None, "days from 0"),
        (None, 1e6, "can be thinned to less"),
        (None, 0.0, "can be thinned to less"),
    ],
)
def test_what_a_recipe_cannot_give_is_named(
    days: tuple[int, int] | None, rate_per_s: float | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        find_recipe("week").arrivals(0, days=days, rate_per_s=rate_per_s)


def test_an_unknown_recipe_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'weak'; there are sg-20, az-w-0\.5"):
        find_recipe("weak")


@pytest.mark.parametrize(
    ("word", "is_file"),
    [("week", False), ("az-w-0.5", False), ("a.jsonl", True), ("./week", True), ("x/a.csv", True)],
)
def test_a_word_is_a_recipe_or_a_file(word: str, is_file: bool) -> None:
    assert is_file_name(word) is is_file
