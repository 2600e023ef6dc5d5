"""A run of the simulator, and what became of each request, for tests of shares and storms."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from repertory.core.controller import Controller
from repertory.domain.actions import Dispatch, Load
from repertory.domain.decisions import Decision
from repertory.domain.events import Arrived, Event, Finished, FirstToken, Preempted, TransitionDone
from repertory.domain.requests import Outcome, Request
from repertory.engines.node_model import NodeModel
from repertory.perf.profiles import prior_profile
from repertory.sim.driver import Simulation
from worlds import World

__all__ = ["Played", "percentile", "play"]


@dataclass
class Played:
    """What the log says."""

    requests: dict[str, Request] = field(default_factory=dict)
    arrived_s: dict[str, float] = field(default_factory=dict)
    ttft_s: dict[str, float] = field(default_factory=dict)
    ended_s: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    stops: Counter[str] = field(default_factory=Counter)
    unpaid: Counter[str] = field(default_factory=Counter)
    """Stops of runs that had not gone on for longer than they took to begin."""
    began_ns: dict[str, int] = field(default_factory=dict)
    taken_up_ns: dict[str, int] = field(default_factory=dict)
    loads: int = 0
    moves_s: float = 0.0
    work: list[tuple[float, str, float]] = field(default_factory=list)
    """At which second, of which request, how many of the device: measured when it ends."""

    def take(self, decision: Decision) -> None:
        event = decision.event
        at_s = event.at_ns / 1e9
        match event:
            case Arrived(request=request):
                self.requests[request.id] = request
                self.arrived_s[request.id] = at_s
            case FirstToken(request_id=name):
                self.ttft_s.setdefault(name, at_s - self.arrived_s[name])
                self.taken_up_ns[name] = event.at_ns
            case Finished(request_id=name, share_ns=share_ns):
                self.ended_s[name] = at_s
                self.work.append((at_s, name, share_ns / 1e9))
            case TransitionDone(measured=measured):
                self.moves_s += measured.took_ns / 1e9
            case Preempted(request_id=name, share_ns=share_ns):
                self.stops[name] += 1
                up_ns = self.taken_up_ns.pop(name, None)
                begun_ns = event.at_ns if up_ns is None else up_ns - self.began_ns[name]
                self.unpaid[name] += up_ns is None or event.at_ns - up_ns <= begun_ns
                self.work.append((at_s, name, share_ns / 1e9))
        for action in decision.actions:
            self.loads += isinstance(action, Load)
            if isinstance(action, Dispatch):
                self.began_ns[action.request_id] = event.at_ns
                self.taken_up_ns.pop(action.request_id, None)

    def work_s(self, from_s: float, to_s: float) -> dict[str, float]:
        """By key."""
        found: dict[str, float] = defaultdict(float)
        for at_s, name, seconds in self.work:
            if from_s <= at_s < to_s:
                found[self.requests[name].key] += seconds
        return found

    def ttfts(self, prefix: str) -> list[float]:
        return [one for name, one in self.ttft_s.items() if name.startswith(prefix)]


def play(world: World, events: Iterable[Event]) -> Played:
    """To the end of everything."""
    played = Played()
    controller = Controller(world.settings, played.take)
    simulation = Simulation(
        controller,
        [NodeModel(world.node, prior_profile)],
        settled=lambda _, outcome: played.outcomes[outcome.request_id].append(outcome),
    )
    simulation.start(world.models)
    simulation.run(events)
    controller.check()
    return played


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
