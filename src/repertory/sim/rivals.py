"""What the rules of other systems are told before a run: costs, habits of the workload, arrivals.

All get the same: as many slots per replica as the model may have at most (`max_sequences`), whole
contexts each, fewer where there is no room; and costs from the profiles that the simulator plays.
Those that are planned by rates know the rates of the very workload, which is more than a plan from
last week's would know.
"""

from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from repertory.core.costbook import ProfileSource
from repertory.domain.errors import ConfigError
from repertory.domain.fleets import Fleet
from repertory.domain.ladder import Rung
from repertory.domain.specs import DeviceSpec, ModelSpec, WeightsForm
from repertory.domain.workloads import Arrival
from repertory.perf.bytes import kv_bytes
from repertory.perf.profiles import Profile
from repertory.policy.baselines.lru_count import LruCount
from repertory.policy.baselines.ollama import Ollama
from repertory.policy.baselines.oracle import Oracle
from repertory.policy.baselines.reactive import Reactive
from repertory.policy.baselines.sharing import Sharing
from repertory.policy.baselines.static import Static
from repertory.policy.baselines.token_level import TokenLevel
from repertory.policy.baselines.view import Rule, full_slots, need_bytes

__all__ = ["RULES", "Habit", "Knowledge", "RuleOf"]

_PLAIN = WeightsForm.PLAIN
_UNSEEN_TOKENS = 256.0
"""Of prompt and answer, of a model that nobody asks for: its costs decide nothing."""


@dataclass(frozen=True, slots=True)
class Habit:
    """What a model is asked for over the whole workload."""

    rate_per_s: float
    prompt_tokens: float
    """On average, as the answer's."""
    output_tokens: float

    @property
    def context_tokens(self) -> float:
        """That a step of one request looks at, on average."""
        return self.prompt_tokens + self.output_tokens / 2.0


_UNSEEN = Habit(0.0, _UNSEEN_TOKENS, _UNSEEN_TOKENS)


class Knowledge:
    """Of a run that is about to begin.  The workload is read only if a rule wants to know."""

    def __init__(
        self,
        fleet: Fleet,
        profile: ProfileSource,
        again: Callable[[], Iterable[Arrival]] | None,
    ) -> None:
        self.fleet = fleet
        self._profile_of = profile
        self._again = again
        self._profiles: dict[tuple[str, str], Profile] = {}
        self._loads_s: dict[tuple[str, str, Rung], float] = {}

    @property
    def slots(self) -> int:
        """At most; no model gets more than its own `max_sequences`."""
        return max((spec.max_sequences for spec in self.fleet.models), default=1)

    @cached_property
    def times_ns(self) -> dict[str, "array[int]"]:
        """Of all arrivals, by model."""
        times: dict[str, array[int]] = {}
        for arrival in self._arrivals():
            found = times.get(arrival.model)
            if found is None:
                found = times[arrival.model] = array("q")
            found.append(round(arrival.at_s * 1e9))
        return times

    @cached_property
    def habits(self) -> dict[str, Habit]:
        counts: dict[str, list[int]] = {}
        last_s = 0.0
        for arrival in self._arrivals():
            found = counts.setdefault(arrival.model, [0, 0, 0])
            found[0] += 1
            found[1] += arrival.prompt_tokens
            found[2] += arrival.output_tokens
            last_s = arrival.at_s
        span_s = max(last_s, 1e-9)
        return {
            name: Habit(count / span_s, prompts / count, outputs / count)
            for name, (count, prompts, outputs) in sorted(counts.items())
        }

    @property
    def rates_per_s(self) -> dict[str, float]:
        return {name: habit.rate_per_s for name, habit in self.habits.items()}

    def most_children(self) -> dict[str, int]:
        """By node: models of mean size, with the slots that an empty device has room for, that fit
        into the memory of its devices together.
        """
        room = max((device.memory_bytes for device in self.fleet.devices), default=0)
        needs = [
            need_bytes(spec, full_slots(spec, self.slots, room)) * spec.devices_per_replica
            for spec in self.fleet.models
        ]
        mean = sum(needs) / max(1, len(needs))
        found = {}
        for machine in self.fleet.machines:
            memory = sum(device.memory_bytes for device in machine.node.devices)
            found[machine.node.id] = max(1, int(memory / mean)) if mean else 1
        return found

    def load_s(self, spec: ModelSpec, device: DeviceSpec, source: Rung) -> float:
        """Until it is open with all of its slots, where another goes first."""
        found = self._loads_s.get((spec.name, device.id, source))
        if found is None:
            profile = self._profile(spec, device)
            found = profile.deactivate_s + profile.unload_s
            found += profile.load_s(_PLAIN, source, spec.weights_bytes)
            found += profile.activate.seconds(kv_bytes(spec, full_slots(spec, self.slots)))
            self._loads_s[spec.name, device.id, source] = found
        return found

    def switch_s(self, spec: ModelSpec, device: DeviceSpec) -> float:
        return self.load_s(spec, device, Rung.HOST)

    def step_s(self, spec: ModelSpec, device: DeviceSpec, batch: int) -> float:
        """A decode step of so many requests of the usual kind."""
        context = self._habit(spec).context_tokens * batch
        return self._profile(spec, device).decode_s(_PLAIN, batch, context)

    def work_s(self, spec: ModelSpec, device: DeviceSpec) -> float:
        """Of a device, per request, in a full batch."""
        habit, batch = self._habit(spec), full_slots(spec, self.slots).sequences
        prompt_s = self._profile(spec, device).prefill_s(_PLAIN, habit.prompt_tokens)
        return prompt_s + habit.output_tokens * self.step_s(spec, device, batch) / batch

    def load(self, spec: ModelSpec, device: DeviceSpec) -> float:
        """Devices that a model keeps busy, on average."""
        rate_per_s = self._habit(spec).rate_per_s
        return rate_per_s * self.work_s(spec, device) * spec.devices_per_replica

    def _habit(self, spec: ModelSpec) -> Habit:
        return self.habits.get(spec.name, _UNSEEN)

    def _profile(self, spec: ModelSpec, device: DeviceSpec) -> Profile:
        found = self._profiles.get((spec.name, device.id))
        if found is None:
            found = self._profiles[spec.name, device.id] = self._profile_of(spec, device)
        return found

    def _arrivals(self) -> Iterable[Arrival]:
        if self._again is None:
            raise ConfigError("this policy knows its workload beforehand: it has to be read twice")
        return self._again()


RuleOf = Callable[[Knowledge], Rule]

RULES: Mapping[str, RuleOf] = {
    "lru-count": lambda known: LruCount(known.most_children(), known.slots),
    "ollama": lambda known: Ollama(slots=known.slots),
    "static": lambda known: Static(known.rates_per_s, known.slots),
    "reactive": lambda known: Reactive(known.load_s, known.slots),
    "sharing": lambda known: Sharing(known.rates_per_s, known.work_s, known.slots),
    "token-level": lambda known: TokenLevel(known.step_s, known.switch_s, known.slots, known.load),
    "oracle": lambda known: Oracle(known.times_ns, known.load_s, known.slots),
}
