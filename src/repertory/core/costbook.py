"""The brain's knowledge of costs: a profile per model and device, corrected by real transitions."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from repertory.domain.ladder import Edge, Rung
from repertory.domain.readings import DeviceReadings
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec, Placement, WeightsForm
from repertory.perf.bytes import kv_bytes, share_there
from repertory.perf.costs import Grounds, Prediction, Ratio, telling
from repertory.perf.fit import Held, Measured, corrected, factors, held_from, profile_from
from repertory.perf.known import First, Page, Resuming
from repertory.perf.profiles import (
    ACTIVATE,
    DECODE_KEYS,
    LOAD_KEYS,
    PREFILL_KEYS,
    Key,
    Profile,
    prior_profile,
)

__all__ = ["RESUME_KEYS", "CostBook", "ProfileSource"]

ProfileSource = Callable[[ModelSpec, DeviceSpec], Profile]

RESUME_KEYS: dict[WeightsForm, Key] = {form: ("resume", form.value) for form in WeightsForm}
_FREE_KEYS: dict[Edge, Key] = {
    edge: (edge.value, "") for edge in (Edge.DEACTIVATE, Edge.UNLOAD, Edge.DROP)
}
_TRUST = 0.5
"""Weight of the newest load: two from the disk in a row are a page cache that does not hold it."""
_NOWHERE = DeviceSpec("", 0)
"""While no worker is up: some set of cores."""

TYPICAL_BATCH = 4
"""Sequences that share a decode step when a queue drains; the batch of a busy small box."""


class CostBook:
    """Predicted seconds for every kind of work, with their basis and their error.

    What a model's work costs is kept per device: two sets of cores may differ, and a card and the
    CPU beside it always do.  A placement on several devices goes by the first of them.
    """

    def __init__(self, profile: ProfileSource = prior_profile) -> None:
        self._prior = profile
        self._specs: dict[str, ModelSpec] = {}
        self._devices: dict[str, DeviceSpec] = {}
        self._readings: dict[tuple[str, str], DeviceReadings] = {}
        """By the digest of a file and the device."""
        self._trust: dict[str, float] = {}
        """By model: how often what was believed to be on `HOST` was there of late; none: always."""
        self._factors: dict[tuple[str, Key], float] | None = None
        """How priors are corrected by what was read of other models; None: to be reckoned anew."""
        self._pages: dict[str, dict[str, Page]] = {}
        """By model and device."""
        self._own: dict[str, dict[str, dict[Key, Ratio]]] = {}
        """Likewise; it outlives a page, whose profile may be reckoned anew."""
        self._others: dict[str, dict[Key, Ratio]] = {}
        """By backend: a card's ratios say nothing of a CPU's."""
        self._firsts: dict[str, dict[First, Ratio]] = {}
        """Likewise."""
        self._done: dict[tuple[str, str], set[First]] = {}
        """By the digest of a file and the device."""

    def add_device(self, device: DeviceSpec) -> None:
        """A worker brought it; what is known of an older one of that name holds on."""
        for (_, place), done in self._done.items():
            if place == device.id:
                done.clear()
        if self._devices.get(device.id) != device:
            self._devices[device.id] = device
            self._reckon_anew()

    def add(self, spec: ModelSpec) -> None:
        """A model, or a new spec for it."""
        self._specs[spec.name] = spec
        self._pages.pop(spec.name, None)
        if any(digest == spec.digest for digest, _ in self._readings):
            self._reckon_anew()

    def add_readings(self, digest: str, read: DeviceReadings) -> None:
        """What was measured of the file with that digest; what was learned since then holds on."""
        self._readings[digest, read.device] = read
        self._reckon_anew()

    def held(self, spec: ModelSpec) -> Held | None:
        """What its readings say it takes on cores, where all of it is one tier; of several sets of
        them, the first that tells by name.
        """
        for digest, device in sorted(self._readings):
            read = self._readings[digest, device]
            if digest == spec.digest and read.backend == "cpu" and read.memory:
                return held_from(spec, read)
        return None

    def _reckon_anew(self) -> None:
        self._pages.clear()
        self._factors = None

    def forget(self, model: str) -> None:
        self._specs.pop(model, None)
        self._trust.pop(model, None)
        self._pages.pop(model, None)
        self._own.pop(model, None)

    def load(
        self, spec: ModelSpec, where: Placement, source: Rung, *, is_crowded: bool = False
    ) -> Prediction:
        """`is_crowded`: something decodes on the node meanwhile."""
        page = self._page(spec, where)
        law_s = page.load_law_s(spec, where, source, is_crowded=is_crowded)
        found = page.predict(LOAD_KEYS[where.form, source], law_s)
        if (source is Rung.HOST and spec.name in self._trust) or page.first_s(
            spec, where, Edge.LOAD
        ):
            seconds = self.load_s(spec, where, source, is_crowded=is_crowded)
            return replace(found, seconds=seconds)
        return found

    def load_s(
        self, spec: ModelSpec, where: Placement, source: Rung, *, is_crowded: bool = False
    ) -> float:
        """What is believed to be on `HOST` may be on the disk again, as often as it was of late."""
        page = self._page(spec, where)
        ratio = page.ratio(LOAD_KEYS[where.form, source])
        seconds = page.load_law_s(spec, where, source, is_crowded=is_crowded) * ratio
        seconds += page.first_s(spec, where, Edge.LOAD)
        trust = self._trust.get(spec.name, 1.0) if source is Rung.HOST else 1.0
        if trust == 1.0:
            return seconds
        cold_s = self.load_s(spec, where, Rung.DISK, is_crowded=is_crowded)
        return trust * seconds + (1.0 - trust) * cold_s

    def activate(self, spec: ModelSpec, where: Placement, kv: KvShape) -> Prediction:
        page = self._page(spec, where)
        found = page.predict(ACTIVATE, page.profile.activate.seconds(_whole_kv(spec, kv)))
        first_s = page.first_s(spec, where, Edge.ACTIVATE)
        return replace(found, seconds=found.seconds + first_s) if first_s else found

    def activate_s(self, spec: ModelSpec, where: Placement, kv: KvShape) -> float:
        page = self._page(spec, where)
        seconds = page.profile.activate.seconds(_whole_kv(spec, kv)) * page.ratio(ACTIVATE)
        return seconds + page.first_s(spec, where, Edge.ACTIVATE)

    def resize(
        self, spec: ModelSpec, where: Placement, kv: KvShape, moved_tokens: int
    ) -> Prediction:
        page = self._page(spec, where)
        moved_s = page.profile.move_kv.seconds(moved_tokens * spec.kv_bytes_per_token)
        law_s = page.profile.activate.seconds(_whole_kv(spec, kv)) + moved_s
        return page.predict((Edge.RESIZE.value, ""), law_s)

    def free(self, spec: ModelSpec, where: Placement, edge: Edge) -> Prediction:
        """Deactivate, unload and drop: small, nearly constant."""
        page = self._page(spec, where)
        return page.predict(_FREE_KEYS[edge], page.free_law_s(edge))

    def free_s(self, spec: ModelSpec, where: Placement, edge: Edge) -> float:
        """The same, where nobody asks for the basis."""
        page = self._page(spec, where)
        return page.free_law_s(edge) * page.ratio(_FREE_KEYS[edge])

    def batch_factor(self, spec: ModelSpec, where: Placement, batch: int) -> float:
        """Seconds per token in steps of that many sequences, to those in a typical batch."""
        profile, share = self._page(spec, where).profile, share_there(spec, where.layers)
        usual_s = profile.decode_s(where.form, TYPICAL_BATCH, 0, share) / TYPICAL_BATCH
        return profile.decode_s(where.form, batch, 0, share) / batch / max(usual_s, 1e-12)

    def work_s(self, spec: ModelSpec, where: Placement, prompt: int, output: int) -> float:
        """Device seconds that a request takes from others, in a typical batch of its like."""
        page, form = self._page(spec, where), where.form
        profile, share = page.profile, share_there(spec, where.layers)
        seconds = profile.prefill_s(form, prompt, 0, share) * page.ratio(PREFILL_KEYS[form])
        if output:
            context = TYPICAL_BATCH * (prompt + output / 2.0)
            step_s = profile.decode_s(form, TYPICAL_BATCH, context, share)
            each_s = step_s / TYPICAL_BATCH * page.ratio(DECODE_KEYS[form])
            seconds += output * each_s
        return seconds

    def step_s(self, spec: ModelSpec, where: Placement, batch: int, context_tokens: float) -> float:
        """One decode step of so many sequences, with so much context together: what each of them
        waits for a token."""
        page, share = self._page(spec, where), share_there(spec, where.layers)
        law_s = page.profile.decode_s(where.form, batch, context_tokens, share)
        return law_s * page.ratio(DECODE_KEYS[where.form])

    def grounds(self, spec: ModelSpec, where: Placement, key: Key) -> Grounds:
        """What seconds of that kind rest on, where they are asked for without saying so."""
        return self._page(spec, where).grounds(key)

    def resume_s(
        self,
        spec: ModelSpec,
        where: Placement,
        prompt: int,
        made: int,
        *,
        one_by_one: bool,
        ahead_s: float = 0.0,
    ) -> float:
        """Until a stopped generation makes its next token, from when it is taken up again.

        `ahead_s`: `replay_s` of what is computed before it: the last of sixteen that are taken up
        together waits for the fifteen.

        The law is that of computing everything again, after the prompt token by token where an
        engine promises equal bits.  Cells that come back from main memory make it shorter: how much
        is learned from the resumes there were.
        """
        there = self.resuming(spec, where, one_by_one=one_by_one)
        return there.seconds(prompt, made, ahead_s)

    def resuming(self, spec: ModelSpec, where: Placement, *, one_by_one: bool) -> Resuming:
        """The same for several of one place."""
        key = RESUME_KEYS[where.form]
        return Resuming(self._page(spec, where), spec, where, key, one_by_one=one_by_one)

    def observe_resume(
        self,
        spec: ModelSpec,
        where: Placement,
        tokens: tuple[int, int],
        measured_s: float,
        *,
        one_by_one: bool,
        ahead_s: float = 0.0,
    ) -> Ratio:
        """`tokens`: of the prompt, and made before it was stopped; `ahead_s` as in `resume_s`."""
        law_s = ahead_s + self.replay_s(spec, where, *tokens, one_by_one=one_by_one)
        return self._page(spec, where).learn(RESUME_KEYS[where.form], measured_s, law_s)

    def observe_load(
        self,
        spec: ModelSpec,
        where: Placement,
        source: Rung,
        measured_s: float,
        *,
        is_crowded: bool = False,
    ) -> Ratio:
        page = self._page(spec, where)
        law_s = page.load_law_s(spec, where, source, is_crowded=is_crowded)
        return page.learn(LOAD_KEYS[where.form, source], measured_s, law_s)

    def observe_first(self, spec: ModelSpec, where: Placement, edge: Edge, first_s: float) -> None:
        """A move was made, and `first_s` of it no later one will take until the worker dies; the
        rest is what `observe_load` and `observe` are told, and what the next ones take.
        """
        self._page(spec, where).learn_first(spec, where, edge, first_s)

    def copy(self, spec: ModelSpec, where: Placement, way: Key, size_bytes: int) -> Prediction:
        """KV to main memory, `KV_OUT`, or back, `KV_IN`."""
        page = self._page(spec, where)
        return page.predict(way, page.copy_law_s(way, size_bytes))

    def observe_copy(
        self, spec: ModelSpec, where: Placement, way: Key, size_bytes: int, measured_s: float
    ) -> Ratio:
        page = self._page(spec, where)
        return page.learn(way, measured_s, page.copy_law_s(way, size_bytes))

    def observe_source(self, spec: ModelSpec, found: Rung) -> None:
        """Where bytes were that were believed to be on `HOST`.  The page cache is a belief: what it
        gives up under pressure, nobody tells.
        """
        before = self._trust.get(spec.name, 1.0)
        if before < 1.0 or found is not Rung.HOST:
            self._trust[spec.name] = before + _TRUST * ((found is Rung.HOST) - before)

    def observe(
        self, spec: ModelSpec, where: Placement, edge: Edge, kv: KvShape | None, measured_s: float
    ) -> Ratio | None:
        """Any edge but a load; None: there is nothing to learn of it."""
        page = self._page(spec, where)
        if edge in (Edge.ACTIVATE, Edge.RESIZE) and kv is not None:
            law_s = page.profile.activate.seconds(_whole_kv(spec, kv))
        elif edge in _FREE_KEYS:
            law_s = page.free_law_s(edge)
        else:
            return None
        return page.learn((edge.value, ""), measured_s, law_s)

    def observe_generation(
        self,
        spec: ModelSpec,
        where: Placement,
        prompt: tuple[int, float],
        output: tuple[int, float],
        batch: float,
    ) -> list[Ratio]:
        """Prompt and output as (tokens, measured seconds); decode steps were shared by so many.

        A prompt of a few tokens takes what reading all weights takes, as a decode step does: it
        says little of longer ones (`telling`).

        The law is asked for that very batch: a lone generation's steps are short, and taken for
        those of a typical batch they would promise a busy device twice what it can do.  The company
        is taken to have as much context as this one.
        """
        page, form = self._page(spec, where), where.form
        profile, share = page.profile, share_there(spec, where.layers)
        learned = []
        if prompt[0] and prompt[1]:
            law_s = profile.prefill_s(form, prompt[0], 0, share)
            step_s = profile.decode_s(form, 1, 0, share) * page.ratio(DECODE_KEYS[form])
            weight = telling(law_s, step_s, page.grounds(PREFILL_KEYS[form]).error)
            if weight:
                learned.append(page.learn(PREFILL_KEYS[form], prompt[1], law_s, weight))
        if output[0] and output[1]:
            context = batch * (prompt[0] + output[0] / 2.0)
            law_s = output[0] * profile.decode_s(form, batch, context, share)
            learned.append(page.learn(DECODE_KEYS[form], output[1], law_s))
        return learned

    def replay_s(
        self, spec: ModelSpec, where: Placement, prompt: int, made: int, *, one_by_one: bool
    ) -> float:
        """By the law alone: to compute a prompt again, and what was made after it."""
        return self.resuming(spec, where, one_by_one=one_by_one).replay_s(prompt, made)

    def _page(self, spec: ModelSpec, where: Placement) -> Page:
        devices = where.devices
        device = devices[0] if devices else ""
        try:
            return self._pages[spec.name][device]
        except KeyError:
            return self._open(spec, device)

    def _open(self, spec: ModelSpec, device: str) -> Page:
        name, backend = spec.name, self._devices.get(device, _NOWHERE).backend
        page = Page(
            self._profile_at(spec, device),
            self._own.setdefault(name, {}).setdefault(device, {}),
            self._others.setdefault(backend, {}),
            self._firsts.setdefault(backend, {}),
            self._done.setdefault((spec.digest, device), set()),
        )
        self._pages.setdefault(name, {})[device] = page
        return page

    def _profile_at(self, spec: ModelSpec, device: str) -> Profile:
        """By its own readings, or else by a prior that those of others correct."""
        there = self._devices.get(device, _NOWHERE)
        prior = self._prior(spec, there)
        read = self._readings.get((spec.digest, device))
        if read is not None:
            return profile_from(prior, read, spec.weights_bytes)
        if self._factors is None:
            self._factors = factors(self._measured())
        return corrected(prior, there.backend, self._factors) if self._factors else prior

    def _measured(self) -> Iterator[Measured]:
        for name in sorted(self._specs):
            spec = self._specs[name]
            for device, there in sorted(self._devices.items()):
                read = self._readings.get((spec.digest, device))
                if read is not None:
                    prior = self._prior(spec, there)
                    fitted = profile_from(prior, read, spec.weights_bytes)
                    yield Measured(spec, there.backend, prior, fitted)


def _whole_kv(spec: ModelSpec, kv: KvShape) -> int:
    return kv_bytes(spec, kv) * spec.devices_per_replica
