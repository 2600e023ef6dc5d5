"""Preemptions and dying workers in any order: no generation is lost that did not kill workers.

`REPERTORY_EXAMPLES=5000 pytest tests/core/test_storms.py` runs a longer campaign.
"""

import os
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from core.play import Play
from repertory.domain.actions import Activate, Load, Preempt
from repertory.domain.requests import Fault, Outcome, OutcomeKind
from repertory.domain.settings import Settings
from worlds import World, llama_world, vllm_world

PICK = st.integers(0, 1 << 16)
NAMES = ("a", "b", "c")
EXAMPLES = int(os.environ.get("REPERTORY_EXAMPLES", "150"))


def cramped() -> World:
    """Room for one of three models."""
    return llama_world(models=3, memory_gib=1.4)


PATIENT = Settings(prewarm=False, max_queue_s=1e6)
"""Nobody is refused for the length of the queue, nor told that no worker comes: no other loss."""


class Storm(RuleBasedStateMachine):
    """Nobody leaves, no file changes: whoever came is served, unless it is what kills workers."""

    @initialize(world=st.sampled_from([cramped, cramped, vllm_world]))
    def begin(self, world: object) -> None:
        assert callable(world)
        self.play = Play(replace(world(), settings=PATIENT))
        self.struck: dict[str, int] = {}
        """Deaths while it was the one on trial, since it last made a token."""
        self.felled: dict[str, int] = {}
        """Deaths in a row while a model was being brought up."""

    @rule(
        name=st.sampled_from(NAMES),
        prompt=st.sampled_from([1, 50, 50, 700]),
        output=st.sampled_from([4, 16, 600, 1500]),
        weight=st.sampled_from([1.0, 1.0, 0.1, 0.1, 0.01, 8.0]),
        count=st.sampled_from([1, 1, 2, 6]),
    )
    def arrive(self, name: str, prompt: int, output: int, weight: float, count: int) -> None:
        for _ in range(count):
            self.play.ask(name, prompt, output, weight)

    @precondition(lambda self: self.play.pending)
    @rule(pick=PICK)
    def complete(self, pick: int) -> None:
        self._complete(sorted(self.play.pending)[pick % len(self.play.pending)])

    @precondition(lambda self: self.play.pending)
    @rule()
    def complete_all(self) -> None:
        self._complete_all()

    @rule(name=st.sampled_from(NAMES), output=st.sampled_from([600, 3000]))
    def stop_somebody(self, name: str, output: int) -> None:
        """What streams for long, and somebody for whom it should make way."""
        self.play.ask(name, 50, output, 0.1)
        self._complete_all()
        self._first_tokens(sorted(self.play.where.keys() - self.play.started))
        self.play.ask(NAMES[(NAMES.index(name) + 1) % len(NAMES)], 50, 4, 8.0)
        for one in sorted(self.play.stopping):
            self.play.preempted(one, 40)

    @precondition(lambda self: self.play.where)
    @rule(pick=PICK)
    def first_token(self, pick: int) -> None:
        self._first_tokens(sorted(self.play.where.keys() - self.play.started)[: 1 + pick % 4])

    @precondition(lambda self: self.play.where)
    @rule(pick=PICK)
    def finish(self, pick: int) -> None:
        """One of those that run."""
        names = sorted(self.play.where)
        name = names[pick % len(names)]
        self.struck.pop(name, None)
        self.play.finish(name)

    @precondition(lambda self: self.play.stopping)
    @rule(pick=PICK, made=st.sampled_from([0, 1, 40, 500]))
    def preempted(self, pick: int, made: int) -> None:
        names = sorted(self.play.stopping)
        self.play.preempted(names[pick % len(names)], made)

    @precondition(lambda self: self.play.is_up)
    @rule(pick=st.integers(0, 3))
    def kill(self, pick: int) -> None:
        if pick:
            return
        for name in self.play.state.trials.values():
            self.struck[name] = self.struck.get(name, 0) + 1
        for action in self.play.pending.values():
            if isinstance(action, Load | Activate):
                self.felled[action.model] = self.felled.get(action.model, 0) + 1
        self.play.die()

    @precondition(lambda self: not self.play.is_up)
    @rule()
    def back(self) -> None:
        self.play.up()

    @rule(seconds=st.sampled_from([0.01, 0.5, 3.0, 15.0]))
    def pass_time(self, seconds: float) -> None:
        self.play.pass_s(seconds)

    def teardown(self) -> None:
        if not hasattr(self, "play"):
            return
        self.play.end()
        stops = [one.request_id for one in self.play.asked if isinstance(one, Preempt)]
        for name, outcome in self.play.outcomes.items():
            assert stops.count(name) <= _MOST_STOPS, f"{name} was stopped again and again"
            if outcome.kind is OutcomeKind.DONE:
                continue
            self._check_loss(name, outcome)

    def _check_loss(self, name: str, outcome: Outcome) -> None:
        """It killed two workers by itself, or its model killed whoever brought it up."""
        model = self.play.requests[name].model
        if "it killed 2 workers" in outcome.message:
            assert self.struck.get(name, 0) >= 2, f"{name} killed nobody"
        else:
            assert outcome.fault is Fault.QUARANTINED, f"{name} is lost: {outcome}"
            assert self.felled.get(model, 0) >= 2, f"{model} killed nobody: {outcome}"

    def _complete_all(self) -> None:
        while self.play.pending:
            self._complete(min(self.play.pending))

    def _complete(self, action_id: int) -> None:
        action = self.play.pending[action_id]
        if isinstance(action, Activate):
            self.felled.pop(action.model, None)
        self.play.complete(action_id)

    def _first_tokens(self, names: list[str]) -> None:
        for name in names:
            if name in self.play.where:
                self.struck.pop(name, None)
                self.play.first_token(name)


_MOST_STOPS = 12
"""A weight of 0.01 doubles ten times until it stands above 8."""

Storm.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    derandomize="REPERTORY_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
TestStorm = Storm.TestCase
