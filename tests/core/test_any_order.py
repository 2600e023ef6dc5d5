"""Whatever happens in whatever order: no invariant breaks, everybody gets an answer.

`REPERTORY_EXAMPLES=20000 pytest tests/core/test_any_order.py` runs a longer campaign.
"""

import os
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from core.play import Play, other_file
from repertory.domain.events import (
    Cancelled,
    DrainAsked,
    GenerationFailed,
    ModelRemoved,
    OperatorAsked,
    SettingsChanged,
    Wish,
)
from repertory.domain.requests import Request
from repertory.domain.settings import Favour
from worlds import WORLDS, model

NAMES = ("a", "b", "c", "d", "nobody")
PICK = st.integers(0, 1 << 16)
EXAMPLES = int(os.environ.get("REPERTORY_EXAMPLES", "600"))


class AnyOrder(RuleBasedStateMachine):
    """Every rule is one event, or one thing that an engine may do."""

    play: Play

    @initialize(
        world=st.sampled_from(sorted(WORLDS)),
        stretch=st.sampled_from([1.0, 1.0, 0.9, 1.1, 1.6]),
        stretched=st.sampled_from(NAMES),
    )
    def begin(self, world: str, stretch: float, stretched: str) -> None:
        self.play = Play(WORLDS[world](), {f"digest-of-{stretched}": stretch})
        self.versions = 0

    @rule(
        name=st.sampled_from(NAMES),
        prompt=st.sampled_from([1, 8, 100, 100, 1500, 3000, 4096]),
        output=st.sampled_from([1, 16, 16, 128, 1100]),
        weight=st.sampled_from([1.0, 1.0, 0.25, 0.1, 1.5, 10.0]),
        key=st.sampled_from(["", "", "ann", "bob"]),
        count=st.sampled_from([1, 1, 1, 2, 12]),
    )
    def arrive(
        self, name: str, prompt: int, output: int, weight: float, key: str, count: int
    ) -> None:
        for _ in range(count):
            self.play.ask(name, prompt, output, weight, key)

    @rule(
        name=st.sampled_from(NAMES),
        weight=st.sampled_from([1.0, 0.1]),
        due_s=st.sampled_from([-1.0, 0.0, 0.01, 0.5, 3.0, 60.0]),
    )
    def arrive_due(self, name: str, weight: float, due_s: float) -> None:
        self.play.want(Request("", name, 100, 16, weight), due_s)

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        """Waiting, running, ended and unknown ones."""
        names = [*sorted(self.play.requests), "unknown"]
        self.play.send(Cancelled(self.play.now_ns, names[pick % len(names)]))

    @precondition(lambda self: self.play.pending)
    @rule(pick=PICK)
    def complete(self, pick: int) -> None:
        self.play.complete(sorted(self.play.pending)[pick % len(self.play.pending)])

    @precondition(lambda self: self.play.pending)
    @rule(pick=PICK)
    def complete_soon(self, pick: int) -> None:
        """Twice as likely: plays get further."""
        self.play.now_ns += 1 + pick * 1000
        self.play.complete(min(self.play.pending))

    @precondition(lambda self: self.play.pending)
    @rule(pick=PICK, how=st.sampled_from(["later", "later", "memory", "memory", "file"]))
    def fail(self, pick: int, how: str) -> None:
        action_id = sorted(self.play.pending)[pick % len(self.play.pending)]
        self.play.fail(action_id, memory=how == "memory", permanent=how == "file")

    @precondition(lambda self: self.play.where)
    @rule(pick=PICK)
    def first_token(self, pick: int) -> None:
        waiting = sorted(self.play.where.keys() - self.play.started)
        if waiting:
            self.play.first_token(waiting[pick % len(waiting)])

    @precondition(lambda self: self.play.where)
    @rule(pick=PICK)
    def finish(self, pick: int) -> None:
        self.play.finish(sorted(self.play.where)[pick % len(self.play.where)])

    @precondition(lambda self: self.play.where)
    @rule(pick=PICK)
    def finish_all(self, pick: int) -> None:
        for name in sorted(self.play.where):
            if name in self.play.where:
                self.play.finish(name)

    @precondition(lambda self: self.play.where)
    @rule(pick=PICK)
    def fail_generation(self, pick: int) -> None:
        name = sorted(self.play.where)[pick % len(self.play.where)]
        self.play._leave(name)
        self.play.send(GenerationFailed(self.play.now_ns, name, "drawn by the test"))

    @precondition(lambda self: self.play.stopping)
    @rule(pick=PICK)
    def preempted(self, pick: int) -> None:
        names = sorted(self.play.stopping)
        self.play.preempted(names[pick % len(names)])

    @precondition(lambda self: self.play.is_up)
    @rule(pick=st.integers(0, 3))
    def worker_lost(self, pick: int) -> None:
        if pick == 0:
            self.play.die()

    @precondition(lambda self: not self.play.is_up)
    @rule()
    def worker_up(self) -> None:
        self.play.up()

    @precondition(lambda self: self.play.lost)
    @rule()
    def late(self) -> None:
        self.play.late()

    @rule(name=st.sampled_from(NAMES), wish=st.sampled_from(list(Wish)))
    def wish(self, name: str, wish: Wish) -> None:
        self.play.send(OperatorAsked(self.play.now_ns, name, wish))

    @rule(favour=st.sampled_from(list(Favour)))
    def turn_the_dial(self, favour: Favour) -> None:
        changed = replace(self.play.state.settings, favour=favour)
        self.play.send(SettingsChanged(self.play.now_ns, changed))

    @rule(
        name=st.sampled_from(NAMES[:4]), change=st.sampled_from(["file", "context", "size", "ttl"])
    )
    def change_model(self, name: str, change: str) -> None:
        spec = self.play.specs.get(name, model(name))
        self.versions += 1
        match change:
            case "file":
                spec = other_file(spec, self.versions)
            case "context":
                spec = replace(spec, context_tokens=1024 if spec.context_tokens > 1024 else 4096)
            case "size":
                grown = replace(spec, kv_bytes_per_token=spec.kv_bytes_per_token ^ (1 << 14))
                spec = other_file(grown, self.versions)
            case _:
                spec = replace(spec, ttl_s=2.0 if spec.ttl_s is None else None)
        self.play.add(spec)

    @rule(name=st.sampled_from(NAMES))
    def remove_model(self, name: str) -> None:
        self.play.send(ModelRemoved(self.play.now_ns, name))

    @precondition(lambda self: self.play.timers)
    @rule()
    def fire(self) -> None:
        self.play.fire()

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 5.0, 20.0, 200.0]))
    def pass_time(self, seconds: float) -> None:
        self.play.pass_s(seconds)

    @precondition(lambda self: self.play.problems)
    @rule()
    def answer(self) -> None:
        self.play.answer()

    @rule(pick=st.integers(0, 15))
    def drain(self, pick: int) -> None:
        if pick == 0:
            self.play.send(DrainAsked(self.play.now_ns))

    def teardown(self) -> None:
        if hasattr(self, "play"):
            self.play.end()


AnyOrder.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=60,
    deadline=None,
    derandomize="REPERTORY_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
TestAnyOrder = AnyOrder.TestCase
