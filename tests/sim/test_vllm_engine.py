"""A vLLM engine under virtual time: order of work, KV blocks, preemption, runs of equal steps."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.perf.vllm.batches import Batch
from repertory.sim.vllm.blocks import BlockPool
from repertory.sim.vllm.engine import Asked, Engine, RequestTimes
from repertory.sim.vllm.scheduler import Limits


@dataclass(frozen=True)
class _Straight:
    """One second a step, and growth with contexts that bends at a knot."""

    per_token_s: float = 0.0

    def step_s(self, batch: Batch) -> float:
        mean = batch.context_tokens / batch.decodes if batch.decodes else 0.0
        bent = mean + max(0.0, mean - 100.0)
        return 1.0 + self.per_token_s * (batch.decodes * bent + batch.longest_tokens)

    def context_knots(self, decodes: int) -> tuple[float, ...]:
        return (0.0, 100.0)


def _served(
    asked: list[Asked], limits: Limits, times: _Straight | None = None, in_runs: bool = True
) -> list[RequestTimes]:
    engine = Engine(times or _Straight(), limits, 0.0, in_runs)
    return sorted(engine.serve(asked), key=lambda one: one.request_id)


_ROOMY = Limits(8, 64, 1000)


def test_one_request_takes_a_step_per_token() -> None:
    (one,) = _served([Asked("a", 3.0, 10, 5)], _ROOMY)
    assert (one.queued_s, one.first_token_s, one.finished_s) == (3.0, 4.0, 8.0)


def test_a_long_prompt_is_computed_in_pieces() -> None:
    (one,) = _served([Asked("a", 0.0, 129, 1)], _ROOMY)
    assert one.first_token_s == 3.0


def test_a_request_taken_in_between_two_steps_is_in_the_step_after_next() -> None:
    """One step runs and the next is planned already."""
    first, second = _served([Asked("a", 0.0, 10, 9), Asked("b", 0.5, 10, 2)], _ROOMY)
    assert first.finished_s == 9.0
    assert second.queued_s == 1.0
    assert second.first_token_s == 3.0


def test_no_more_run_than_there_are_places() -> None:
    asked = [Asked(str(n), 0.0, 4, 4) for n in range(3)]
    ended = _served(asked, Limits(2, 64, 1000))
    assert [one.first_token_s for one in ended[:2]] == [1.0, 1.0]
    assert ended[2].first_token_s > 4.0


def test_the_newest_is_preempted_and_ends_all_the_same() -> None:
    """Both have prompts of 3 blocks and grow; there is room for 7 of the 8 that they come to."""
    asked = [Asked("a", 0.0, 48, 16), Asked("b", 0.0, 48, 16)]
    first, second = _served(asked, Limits(8, 128, 8))
    assert first.preemptions == 0
    assert second.preemptions >= 1
    assert second.output_tokens == 16
    assert second.finished_s > first.finished_s


def test_blocks_are_found_again_until_they_are_taken() -> None:
    pool = BlockPool(5)
    blocks = pool.take(4)
    pool.give_named(7, blocks, 3)
    pool.take(2)  # the free one, and the one that was given back first: the last, without a name
    assert pool.held(7, 9) == blocks[:3]
    pool.take(1)
    assert pool.held(7, 9) == blocks[:2]
    pool.take_back(pool.held(7, 9))
    assert pool.held(7, 9) == []
    assert pool.free == 0


_asked = st.lists(
    st.tuples(st.floats(0, 60), st.integers(1, 90), st.integers(1, 70)), min_size=1, max_size=12
)


@settings(deadline=None)
@given(_asked, st.integers(1, 6), st.integers(12, 60), st.floats(0, 1e-3))
def test_runs_of_equal_steps_are_the_same_as_step_by_step(
    rows: list[tuple[float, int, int]], seqs: int, blocks: int, growth: float
) -> None:
    ordered = sorted(rows)
    asked = [Asked(f"{n:02}", at, prompt, out) for n, (at, prompt, out) in enumerate(ordered)]
    limits, times = Limits(seqs, 64, blocks), _Straight(growth)
    fast = _served(asked, limits, times)
    slow = _served(asked, limits, times, in_runs=False)
    assert [one.request_id for one in fast] == [each.request_id for each in asked]
    for one, other in zip(fast, slow, strict=True):
        assert one.output_tokens == other.output_tokens
        assert one.preemptions == other.preemptions
        for name in ("queued_s", "first_token_s", "finished_s"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9)
