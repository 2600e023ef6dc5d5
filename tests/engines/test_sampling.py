"""Draws are a pure function of (logits, seed, position), and follow the distribution asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.engines.contract import Sampling
from repertory.engines.llamacpp.sampling import NotANumber, TokenSampler, draw, trace, uniform

VOCABULARY = 1000


def row(seed: int, size: int = VOCABULARY, spread: float = 2.0):  # type: ignore[no-untyped-def]
    return (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)


SETTINGS = [
    Sampling(seed=3),
    Sampling(temperature=0.7, top_k=40, seed=3),
    Sampling(temperature=0.7, top_p=0.9, seed=3),
    Sampling(temperature=1.3, min_p=0.05, seed=3),
    Sampling(temperature=0.7, top_k=40, top_p=0.95, min_p=0.05, seed=3),
]


@pytest.mark.parametrize("sampling", SETTINGS)
def test_the_same_seed_and_position_draw_the_same_token_in_any_order(sampling):  # type: ignore[no-untyped-def]
    forward = [draw(row(n), sampling, n) for n in range(20)]
    backward = [draw(row(n), sampling, n) for n in reversed(range(20))]
    assert forward == backward[::-1]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**20))
def test_luck_is_in_range_and_differs_between_neighbours(seed: int, position: int) -> None:
    luck = uniform(seed, position)
    assert 0.0 <= luck < 1.0
    assert luck not in (uniform(seed, position + 1), uniform(seed + 1, position))


def test_luck_is_even() -> None:
    values = np.array([uniform(11, position) for position in range(20_000)])
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert counts.min() > 850
    assert counts.max() < 1150
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


def test_zero_temperature_takes_the_best_and_a_tie_goes_to_the_lower_id() -> None:
    logits = row(1)
    logits[[700, 30, 500]] = 50.0
    assert draw(logits, Sampling(temperature=0.0, seed=9), 4) == 30


def test_top_k_at_a_tie_keeps_the_lower_id() -> None:
    logits = np.zeros(VOCABULARY, np.float32)
    logits[[5, 900, 901]] = (9.0, 8.0, 8.0)
    drawn = {draw(logits, Sampling(temperature=5.0, top_k=2, seed=1), n) for n in range(200)}
    assert drawn == {5, 900}


@pytest.mark.parametrize("size", [16, 1000, 32000, 32003])
def test_draws_from_the_whole_row_follow_softmax(size: int) -> None:
    logits = np.full(size, -30.0, np.float32)
    ids = [1, size // 2, size - 1]
    logits[ids] = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    drawn = [draw(logits, Sampling(seed=5), n) for n in range(4000)]
    shares = [drawn.count(token) / len(drawn) for token in ids]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


@pytest.mark.parametrize("spread", [0.1, 2.0, 8.0])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_top_p_keeps_the_least_set_that_reaches_the_share(spread: float, share: float) -> None:
    logits = row(2, 5000, spread)
    chances = np.exp(logits.astype(np.float64))
    chances /= chances.sum()
    order = np.argsort(-chances)
    nucleus = set(order[: int(chances[order].cumsum().searchsorted(share)) + 2].tolist())
    drawn = {draw(logits, Sampling(top_p=share, seed=1), n) for n in range(300)}
    assert drawn <= nucleus


def test_min_p_drops_what_is_far_below_the_best() -> None:
    logits = np.log(np.array([0.6, 0.3, 0.05, 0.05], np.float32))
    drawn = {draw(logits, Sampling(min_p=0.2, seed=1), n) for n in range(300)}
    assert drawn == {0, 1}


def test_repetition_counts_prompt_and_output_the_others_only_output() -> None:
    logits = np.zeros(100, np.float32)
    logits[[10, 20, 30]] = (5.0, 4.9, 4.8)
    greedy = {"temperature": 0.0}
    repetition = TokenSampler(Sampling(repetition_penalty=2.0, **greedy), prompt=[10])
    assert repetition.next(logits, 1) == 20
    repetition.accept(20)
    assert repetition.next(logits, 2) == 30
    presence = TokenSampler(Sampling(presence_penalty=0.5, **greedy), prompt=[10])
    assert presence.next(logits, 1) == 10
    presence.accept(10)
    assert presence.next(logits, 2) == 20
    frequency = TokenSampler(Sampling(frequency_penalty=0.06, **greedy), prompt=[])
    frequency.accept(10)
    assert frequency.next(logits, 1) == 10
    frequency.accept(10)
    assert frequency.next(logits, 2) == 20


def test_penalties_do_not_touch_the_models_row() -> None:
    logits = row(3)
    before = logits.copy()
    sampler = TokenSampler(Sampling(repetition_penalty=1.5, frequency_penalty=0.5), range(200))
    for token in range(300):
        sampler.accept(token)
    sampler.next(logits, 300)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("sampling", [*SETTINGS, Sampling(temperature=0.0)])
@pytest.mark.parametrize("size", [30, 1000, 32000])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(sampling, size, value):  # type: ignore[no-untyped-def]
    logits = row(4, size)
    logits[7] = value
    with pytest.raises(NotANumber):
        draw(logits, sampling, 0)


@given(
    st.integers(0, 1000),
    st.integers(2, 300),
    st.sampled_from([0.3, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([50, 1000, 5003]),
)
def test_what_the_filters_leave_is_what_their_definitions_say(
    seed: int, top_k: int, top_p: float, min_p: float, size: int
) -> None:
    logits = np.round(row(seed, size), 1)  # with ties
    order = np.lexsort((np.arange(size), -logits))[:top_k]
    weights = np.exp(logits[order].astype(np.float64) - float(logits[order[0]]))
    sums = weights.cumsum()
    order = order[: int(sums.searchsorted(top_p * sums[-1] * (1 - 1e-6))) + 1]
    weights = weights[: order.size]
    left = set(order[weights >= min_p * (1 - 1e-6)].tolist())
    sampling = Sampling(top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    assert {draw(logits, sampling, position) for position in range(50)} <= left


def test_equal_digests_mean_equal_rows() -> None:
    one, other = row(5), row(5)
    assert trace(one) == trace(other)
    other[3] = np.nextafter(other[3], np.float32(9))
    assert trace(one).digest != trace(other).digest
    assert len(trace(one).sample) == 32
