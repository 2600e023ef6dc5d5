"""What steps took in, threads of the next one out."""

from hypothesis import given
from hypothesis import strategies as st

from repertory.engines.llamacpp.team import Team

MS = 1_000_000
STEP_NS = 50 * MS
WINDOW_STEPS = 2
"""Steps of that length that are judged together."""
PATIENCE_MS = 250
MOST_PATIENCE_MS = 8000


class Steps:
    """Steps one after the other, quiet or crowded."""

    def __init__(self, most: int) -> None:
        self.team = Team(most)
        self.now_ns = 0

    def run(self, count: int, *, share: float) -> int:
        """So many steps, computing for that share of their time; the threads of the next."""
        for _ in range(count):
            self.now_ns += STEP_NS
            self.team.note(self.now_ns, STEP_NS, round(share * STEP_NS))
        return self.team.threads

    def crowd(self) -> int:
        return self.run(WINDOW_STEPS, share=0.4)

    def quieten(self) -> int:
        return self.run(WINDOW_STEPS, share=0.95)

    def wait_ms(self) -> int:
        """How long alone until another thread comes: the patience, to a step."""
        before_ns = self.now_ns
        assert self.team.threads == 1
        while self.run(1, share=0.95) == 1:
            pass
        return (self.now_ns - before_ns) // MS

    def fail_trials(self, count: int) -> list[int]:
        """Trials that are crowded each; the waits before them."""
        waits = []
        for _ in range(count):
            waits.append(self.wait_ms())
            assert self.crowd() == 1
        return waits


def test_crowded_steps_shrink_the_team_to_one_and_no_further() -> None:
    steps = Steps(4)
    assert [steps.crowd() for _ in range(4)] == [3, 2, 1, 1]


def test_quiet_steps_leave_it_whole() -> None:
    assert Steps(4).run(1000, share=0.9) == 4


def test_a_hiccup_shorter_than_the_window_is_none() -> None:
    steps = Steps(2)
    for _ in range(50):
        steps.team.note(steps.now_ns, 5 * MS, 0)
        assert steps.run(2, share=1.0) == 2


def test_one_in_eight_leaves_a_large_team() -> None:
    steps = Steps(32)
    assert [steps.crowd() for _ in range(4)] == [28, 25, 22, 20]


def test_after_the_patience_a_thread_comes_back_on_trial() -> None:
    steps = Steps(2)
    assert steps.crowd() == 1
    assert steps.wait_ms() == PATIENCE_MS
    assert steps.run(1000, share=0.95) == 2, "the trial went well"


def test_a_crowd_of_one_step_alone_cannot_be_seen_and_keeps_nobody_away() -> None:
    """A single thread waits for nobody, whatever its share."""
    steps = Steps(2)
    steps.crowd()
    assert steps.run(PATIENCE_MS * MS // STEP_NS, share=0.1) == 2


def test_a_team_grows_by_a_thread_at_a_time() -> None:
    steps = Steps(4)
    for _ in range(3):
        steps.crowd()
    steps.wait_ms()
    assert [steps.team.threads, steps.quieten(), steps.quieten(), steps.quieten()] == [2, 3, 4, 4]


def test_each_trial_that_fails_doubles_the_patience_up_to_the_most() -> None:
    steps = Steps(2)
    steps.crowd()
    assert steps.fail_trials(8) == [250, 500, 1000, 2000, 4000, 8000, 8000, MOST_PATIENCE_MS]


def test_each_trial_that_goes_well_halves_the_patience() -> None:
    steps = Steps(2)
    steps.crowd()
    assert steps.fail_trials(3)[-1] == 1000
    waits = []
    for _ in range(5):
        waits.append(steps.wait_ms())
        assert steps.quieten() == 2
        assert steps.crowd() == 1, "a crowd later on is no fault of the trial"
    assert waits == [2000, 1000, 500, 250, PATIENCE_MS]


@given(
    most=st.integers(1, 64),
    steps=st.lists(
        st.tuples(
            st.integers(0, 10_000 * MS), st.integers(0, 200 * MS), st.floats(0.0, 1.0, width=16)
        ),
        max_size=80,
    ),
)
def test_whatever_the_steps_took_there_is_one_thread_and_no_more_than_the_most(
    most: int, steps: list[tuple[int, int, float]]
) -> None:
    team, now_ns = Team(most), 0
    for gap_ns, took_ns, share in steps:
        before = team.threads
        now_ns += gap_ns + took_ns
        team.note(now_ns, took_ns, round(share * took_ns))
        assert 1 <= team.threads <= most
        assert team.threads - before <= 1, "they come back one by one"
