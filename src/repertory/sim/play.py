"""One workload on one fleet under one policy: from arrivals to what became of each."""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field, replace

from repertory.core.controller import Controller
from repertory.domain.decisions import Decision
from repertory.domain.errors import ConfigError
from repertory.domain.events import Arrived, Event, WorkerLost, WorkerUp, order
from repertory.domain.fleets import Fleet
from repertory.domain.requests import PRIORITIES, Outcome, OutcomeKind, Request
from repertory.domain.specs import ModelSpec
from repertory.domain.workloads import Arrival, Ending, RequestRecord
from repertory.sim.driver import Brain, Fate, Simulation
from repertory.sim.policies import Means, brain_of
from repertory.sim.served import Served
from repertory.sim.world import Read, World

__all__ = ["MOST_OUTPUT_TOKENS", "Played", "Scenario", "play"]

MOST_OUTPUT_TOKENS = 4096
"""What a request may make if it does not say: as in the server (worker.md, Dispatch)."""

_ENDINGS = {
    OutcomeKind.DONE: Ending.DONE,
    OutcomeKind.REFUSED: Ending.REFUSED,
    OutcomeKind.FAILED: Ending.FAILED,
    OutcomeKind.CANCELLED: Ending.FAILED,
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a run depends on, but for its workload."""

    fleet: Fleet
    policy: str
    seed: int = 0
    jitter: float = 0.0
    """How far moves' times scatter: the deviation of their logarithm."""
    read: Read = field(default_factory=dict)
    served: Served | None = None
    """The fleet is a server of ours, and this is what it began with.  Its requests say how long
    their answers are, as those of `repertory bench` do."""


@dataclass(frozen=True, slots=True)
class Played:
    """How far a run came."""

    is_whole: bool
    """False: it was stopped, and the last requests have no end."""
    requests: int
    last_s: float
    """When the last of them came."""
    end_s: float
    """When nothing was left to happen; both in simulated time."""


GoesOn = Callable[[float, int], bool]


def play(
    scenario: Scenario,
    arrivals: Iterable[Arrival],
    tell: Callable[[RequestRecord], None],
    record: Callable[[Decision], None] = lambda _: None,
    goes_on: GoesOn = lambda at_s, requests: True,
    again: Callable[[], Iterable[Arrival]] | None = None,
) -> Played:
    """`tell` gets every request once, when it has ended; those without an end at last, as lost.

    `goes_on` is asked now and then, with the simulated time and the requests that have come.
    `again` opens the same arrivals once more: some policies know of them beforehand.
    """
    world = World(scenario.fleet, scenario.seed, scenario.jitter, scenario.read)
    front_ns = round(scenario.fleet.front_s * 1e9)
    feed = _Feed(scenario.fleet, tell, front_ns, says_lengths=scenario.served is not None)
    brain = _brain(scenario, Means(record, world.profile, scenario.fleet, again))
    simulation = Simulation(
        brain,
        world.workers(),
        output_tokens=lambda request: feed.arrivals[request.id].output_tokens,
        settled=lambda at_ns, outcome: feed.settle(
            simulation.fates[outcome.request_id], at_ns, outcome
        ),
        worker=world.worker,
        lag_ns=round(scenario.fleet.lag_s * 1e9),
    )
    simulation.start(scenario.fleet.models)
    if scenario.served is not None and isinstance(brain, Controller):
        simulation.tell(replace(one, at_ns=0) for one in scenario.served.profiled)
    events = _with_failures(feed.events(arrivals), world.failures())
    is_whole = simulation.run(events, lambda at_ns: goes_on(at_ns / 1e9, feed.count))
    feed.give_back(simulation.fates)
    for fate in list(simulation.fates.values()):
        feed.lose(fate)
    return Played(is_whole, feed.count, feed.last_s, simulation.now_ns / 1e9)


def _brain(scenario: Scenario, means: Means) -> Brain:
    """Ours on a server of ours believes what that server did, with its settings."""
    if scenario.served is not None and scenario.policy == "repertory":
        return Controller(scenario.served.settings, means.record)
    return brain_of(scenario.policy, means)


class _Feed:
    """Makes requests of arrivals, and records of their ends."""

    def __init__(
        self,
        fleet: Fleet,
        tell: Callable[[RequestRecord], None],
        front_ns: int,
        *,
        says_lengths: bool,
    ) -> None:
        """`front_ns`: from a client to the brain, and from its answer to the client, together."""
        self._front_ns = front_ns
        self._says_lengths = says_lengths
        self._specs = {spec.name: spec for spec in fleet.models}
        self._tell = tell
        self.arrivals: dict[str, Arrival] = {}
        """Of those without an end."""
        self.count = 0
        self.last_s = 0.0

    def events(self, arrivals: Iterable[Arrival]) -> Iterator[Event]:
        """What no slot of its model could ever hold is refused here, as by the server."""
        for arrival in arrivals:
            self.count += 1
            self.last_s = arrival.at_s
            name = f"r{self.count:08d}"
            spec = self._specs.get(arrival.model)
            if spec is None:
                known = ", ".join(self._specs)
                raise ConfigError(
                    f"request {self.count} of the workload, at {arrival.at_s:g} s, is for "
                    f"{arrival.model!r}, which the fleet does not serve; it serves {known}"
                )
            if arrival.prompt_tokens + arrival.output_tokens > spec.context_tokens:
                self._tell(_too_long(name, arrival, spec))
                continue
            self.arrivals[name] = arrival
            request = _request(name, arrival, spec)
            if self._says_lengths:
                request = replace(request, max_tokens=arrival.output_tokens)
            yield Arrived(round(arrival.at_s * 1e9), request)

    def give_back(self, come: Container[str]) -> None:
        """The next that would have come is not of the run."""
        for name in [name for name in self.arrivals if name not in come]:
            del self.arrivals[name]
            self.count -= 1

    def settle(self, fate: Fate, at_ns: int, outcome: Outcome) -> None:
        self._tell(self._record(fate, _ENDINGS[outcome.kind], at_ns, outcome))

    def lose(self, fate: Fate) -> None:
        self._tell(self._record(fate, Ending.LOST, None, None))

    def _record(
        self, fate: Fate, ending: Ending, at_ns: int | None, outcome: Outcome | None
    ) -> RequestRecord:
        name = fate.request.id
        arrival = self.arrivals.pop(name)
        is_done = ending is Ending.DONE
        return RequestRecord(
            request_id=name,
            model=arrival.model,
            at_s=arrival.at_s,
            prompt_tokens=arrival.prompt_tokens,
            output_tokens=arrival.output_tokens if is_done else fate.made_tokens,
            ending=ending,
            started_s=_seconds(fate.started_ns),
            first_token_s=_seconds(fate.first_ns, self._front_ns),
            finished_s=_seconds(at_ns, self._front_ns),
            longest_gap_s=_seconds(fate.gap_ns or None),
            status=200 if is_done else _status(outcome),
            message=outcome.message if outcome is not None else "the run ended before it did",
            priority=arrival.priority,
            key=arrival.key,
            deadline_s=arrival.deadline_s,
        )


def _seconds(at_ns: int | None, more_ns: int = 0) -> float | None:
    return None if at_ns is None else (at_ns + more_ns) / 1e9


def _request(name: str, arrival: Arrival, spec: ModelSpec) -> Request:
    """As a client that names no `max_tokens` would be taken, unless its answer is longer."""
    room = spec.context_tokens - arrival.prompt_tokens
    most = min(room, max(MOST_OUTPUT_TOKENS, arrival.output_tokens))
    weight = 1.0
    if arrival.priority:
        known = PRIORITIES.get(arrival.priority)
        weight = float(arrival.priority) if known is None else known
    deadline_ns = None
    if arrival.deadline_s is not None:
        deadline_ns = round((arrival.at_s + arrival.deadline_s) * 1e9)
    return Request(
        name, arrival.model, arrival.prompt_tokens, most, weight, arrival.key, deadline_ns
    )


def _too_long(name: str, arrival: Arrival, spec: ModelSpec) -> RequestRecord:
    tokens = arrival.prompt_tokens + arrival.output_tokens
    return RequestRecord(
        request_id=name,
        model=arrival.model,
        at_s=arrival.at_s,
        prompt_tokens=arrival.prompt_tokens,
        output_tokens=0,
        ending=Ending.REFUSED,
        finished_s=arrival.at_s,
        status=400,
        message=f"{tokens} tokens exceed the context of {spec.context_tokens}",
        priority=arrival.priority,
        key=arrival.key,
        deadline_s=arrival.deadline_s,
    )


def _with_failures(arrivals: Iterable[Event], failures: Iterator[Event]) -> Iterator[Event]:
    """Machines fail until the last request has come; what is down then still comes back."""
    down: dict[str, None] = {}
    failure = next(failures, None)
    for arrival in arrivals:
        while failure is not None and order(failure) <= order(arrival):
            _note(down, failure)
            yield failure
            failure = next(failures, None)
        yield arrival
    while down and failure is not None:
        if isinstance(failure, WorkerUp) and failure.node.id in down:
            _note(down, failure)
            yield failure
        failure = next(failures, None)


def _note(down: dict[str, None], failure: Event) -> None:
    if isinstance(failure, WorkerLost):
        down[failure.node_id] = None
    elif isinstance(failure, WorkerUp):
        down.pop(failure.node.id, None)


def _status(outcome: Outcome | None) -> int | None:
    return None if outcome is None else outcome.status
