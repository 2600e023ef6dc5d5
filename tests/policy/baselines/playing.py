"""A rule of another system plays in the simulator."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from repertory.core.controller import Controller
from repertory.core.rivals.rival import Rival
from repertory.domain.actions import Load
from repertory.domain.decisions import Decision
from repertory.domain.events import Arrived, Event, FirstToken
from repertory.domain.ladder import Rung
from repertory.domain.requests import Outcome, Request
from repertory.domain.settings import Settings
from repertory.domain.specs import DeviceSpec, ModelSpec, NodeSpec, WeightsForm
from repertory.engines.fake import llama_like
from repertory.engines.node_model import NodeModel
from repertory.perf.profiles import Law, Profile, StepLaw, prior_profile, straight
from repertory.policy.baselines.view import Rule
from repertory.sim.driver import Simulation
from tests.worlds import MIB, model

__all__ = ["Played", "asked", "load_s", "play", "room_for", "small", "timed"]


@dataclass
class Played:
    first_s: dict[str, float] = field(default_factory=dict)
    """Seconds from arrival to first token."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    log: list[Decision] = field(default_factory=list)
    end_s: float = 0.0

    @property
    def loads(self) -> list[Load]:
        return [one for each in self.log for one in each.actions if isinstance(one, Load)]


def small(name: str, **changes: object) -> ModelSpec:
    """Eight of them take less than their slots: a model's room is 100 MiB."""
    fields: dict[str, object] = {"weights_bytes": 64 * MIB, "kv_bytes_per_token": 1024}
    fields |= {"context_tokens": 1024, "buffers_bytes": 4 * MIB, "max_sequences": 4}
    return model(name, **(fields | changes))  # type: ignore[arg-type]  # test data


def room_for(models: int, device: str = "dev0") -> DeviceSpec:
    """Memory for so many `small` models with all of their slots."""
    return DeviceSpec(device, models * 72 * MIB + 8 * MIB, cores=2)


def asked(at_s: float, name: str, model_name: str, tokens: int = 8, prompt: int = 16) -> Arrived:
    return Arrived(round(at_s * 1e9), Request(name, model_name, prompt, tokens))


def timed(load: float, warm: float, step: float) -> "Profile":
    """Seconds of a load from the disk, from host memory, and of a step, whatever the size."""
    prior = prior_profile(small("any"), room_for(1))
    plain = WeightsForm.PLAIN
    steps = StepLaw(straight(step, 0.0))
    return replace(
        prior,
        load={(plain, Rung.DISK): Law(load, 0.0), (plain, Rung.HOST): Law(warm, 0.0)},
        activate=Law(0.0, 0.0),
        deactivate_s=0.0,
        unload_s=0.0,
        prefill={plain: StepLaw(straight(0.0, 0.0))},
        decode={plain: steps},
    )


def load_s(spec: ModelSpec, device: DeviceSpec, source: Rung) -> float:
    """Until it is open, where another goes first."""
    profile = prior_profile(spec, device)
    kv_s = profile.activate.seconds(4 * MIB) + profile.deactivate_s + profile.unload_s
    return kv_s + profile.load_s(WeightsForm.PLAIN, source, spec.weights_bytes)


def play(
    rule: Rule | Settings,
    nodes: NodeSpec | Sequence[NodeSpec] | DeviceSpec,
    models: Iterable[ModelSpec],
    events: Iterable[Event],
    profile: Profile | None = None,
) -> Played:
    """`Settings`: our own brain."""
    if isinstance(nodes, DeviceSpec):
        nodes = llama_like([nodes])
    if isinstance(nodes, NodeSpec):
        nodes = [nodes]
    found = Played()
    began: dict[str, int] = {}

    def record(decision: Decision) -> None:
        found.log.append(decision)
        event = decision.event
        if isinstance(event, Arrived):
            began[event.request.id] = event.at_ns
        elif isinstance(event, FirstToken) and event.request_id not in found.first_s:
            found.first_s[event.request_id] = (event.at_ns - began[event.request_id]) / 1e9

    brain = Controller(rule, record) if isinstance(rule, Settings) else Rival(rule, record)
    made = prior_profile if profile is None else (lambda spec, device: profile)
    playing = Simulation(
        brain,  # type: ignore[arg-type]  # the same door
        [NodeModel(node, made) for node in nodes],
        settled=lambda at_ns, outcome: found.outcomes.__setitem__(outcome.request_id, outcome),
    )
    playing.start(models)
    playing.run(events)
    brain.check()
    found.end_s = playing.now_ns / 1e9
    return found
