"""The brain's knowledge of costs: a profile per model, corrected by every real transition."""

from collections.abc import Callable

from repertory.domain.ladder import Edge, Rung
from repertory.domain.specs import KvShape, ModelSpec, WeightsForm
from repertory.perf.bytes import kv_bytes
from repertory.perf.costs import Prediction, Ratio, learn, predict
from repertory.perf.profiles import Profile, prior_profile

__all__ = ["CostBook", "Key"]

Key = tuple[str, str]
"""Kind of work and its variant: ("load", "plain/host"), ("activate", ""), ("prefill", "plain")."""

_LOAD_KEYS: dict[tuple[WeightsForm, Rung], Key] = {
    (form, source): (Edge.LOAD.value, f"{form.value}/{source.value}")
    for form in WeightsForm
    for source in (Rung.DISK, Rung.HOST)
}
_PREFILL_KEYS: dict[WeightsForm, Key] = {form: ("prefill", form.value) for form in WeightsForm}
_DECODE_KEYS: dict[WeightsForm, Key] = {form: ("decode", form.value) for form in WeightsForm}
_ACTIVATE: Key = (Edge.ACTIVATE.value, "")

TYPICAL_BATCH = 4
"""Sequences that share a decode step when a queue drains; the batch of a busy small box."""


class CostBook:
    """Predicted seconds for every kind of work, with their basis."""

    def __init__(self, profile: Callable[[ModelSpec], Profile] = prior_profile) -> None:
        self._profile = profile
        self._profiles: dict[str, Profile] = {}
        self._own: dict[tuple[str, Key], Ratio] = {}
        self._others: dict[Key, Ratio] = {}

    def add(self, spec: ModelSpec) -> None:
        self._profiles[spec.name] = self._profile(spec)

    def forget(self, model: str) -> None:
        self._profiles.pop(model, None)
        for key in [key for key in self._own if key[0] == model]:
            del self._own[key]

    def load(self, spec: ModelSpec, form: WeightsForm, source: Rung) -> Prediction:
        law = self._profiles[spec.name].load[form, source]
        return self._predict(spec, _LOAD_KEYS[form, source], law.seconds(spec.weights_bytes))

    def load_s(self, spec: ModelSpec, form: WeightsForm, source: Rung) -> float:
        law = self._profiles[spec.name].load[form, source]
        return law.seconds(spec.weights_bytes) * self._ratio(spec, _LOAD_KEYS[form, source])

    def activate_s(self, spec: ModelSpec, kv: KvShape) -> float:
        size_bytes = kv.sequences * kv.cells * spec.kv_bytes_per_token
        return self._profiles[spec.name].activate.seconds(size_bytes) * self._ratio(spec, _ACTIVATE)

    def activate(self, spec: ModelSpec, kv: KvShape) -> Prediction:
        size_bytes = kv_bytes(spec, kv) * spec.devices_per_replica
        law = self._profiles[spec.name].activate
        return self._predict(spec, _ACTIVATE, law.seconds(size_bytes))

    def resize(self, spec: ModelSpec, kv: KvShape, moved_tokens: int) -> Prediction:
        profile = self._profiles[spec.name]
        moved_s = profile.move_kv.seconds(moved_tokens * spec.kv_bytes_per_token)
        size_bytes = kv_bytes(spec, kv) * spec.devices_per_replica
        law_s = profile.activate.seconds(size_bytes) + moved_s
        return self._predict(spec, (Edge.RESIZE.value, ""), law_s)

    def free(self, spec: ModelSpec, edge: Edge) -> Prediction:
        """Deactivate, unload and drop: small, nearly constant."""
        profile = self._profiles[spec.name]
        law_s = {
            Edge.DEACTIVATE: profile.deactivate_s,
            Edge.UNLOAD: profile.unload_s,
            Edge.DROP: profile.drop_s,
        }[edge]
        return self._predict(spec, (edge.value, ""), law_s)

    def batch_factor(self, spec: ModelSpec, form: WeightsForm, batch: int) -> float:
        """Seconds per token in steps of that many sequences, to those in a typical batch."""
        law = self._profiles[spec.name].decode[form]
        usual_s = law.seconds(TYPICAL_BATCH) / TYPICAL_BATCH
        return law.seconds(batch) / batch / max(usual_s, 1e-12)

    def work_s(self, spec: ModelSpec, form: WeightsForm, prompt: int, output: int) -> float:
        """Device seconds that a request takes from others, in a typical batch."""
        profile = self._profiles[spec.name]
        prefill, decode = profile.prefill[form], profile.decode[form]
        per_token_s = decode.seconds(TYPICAL_BATCH) / TYPICAL_BATCH
        prompt_s = prefill.seconds(prompt) * self._ratio(spec, _PREFILL_KEYS[form])
        return prompt_s + output * per_token_s * self._ratio(spec, _DECODE_KEYS[form])

    def step_s(self, spec: ModelSpec, form: WeightsForm, batch: int) -> float:
        """One decode step of so many sequences: what each of them waits for a token."""
        law = self._profiles[spec.name].decode[form]
        return law.seconds(batch) * self._ratio(spec, _DECODE_KEYS[form])

    def observe_load(
        self, spec: ModelSpec, form: WeightsForm, source: Rung, measured_s: float
    ) -> None:
        law = self._profiles[spec.name].load[form, source]
        self._learn(spec, _LOAD_KEYS[form, source], measured_s, law.seconds(spec.weights_bytes))

    def observe(self, spec: ModelSpec, edge: Edge, kv: KvShape | None, measured_s: float) -> None:
        """Any edge but a load."""
        profile = self._profiles[spec.name]
        if edge in (Edge.ACTIVATE, Edge.RESIZE) and kv is not None:
            size_bytes = kv_bytes(spec, kv) * spec.devices_per_replica
            law_s = profile.activate.seconds(size_bytes)
        elif edge in (Edge.DEACTIVATE, Edge.UNLOAD, Edge.DROP):
            law_s = {
                Edge.DEACTIVATE: profile.deactivate_s,
                Edge.UNLOAD: profile.unload_s,
                Edge.DROP: profile.drop_s,
            }[edge]
        else:
            return
        self._learn(spec, (edge.value, ""), measured_s, law_s)

    def observe_generation(
        self,
        spec: ModelSpec,
        form: WeightsForm,
        prompt: tuple[int, float],
        output: tuple[int, float],
        batch: float,
    ) -> None:
        """Prompt and output as (tokens, measured seconds); decode steps were shared by so many.

        The law is asked for that very batch: a lone generation's steps are short, and taken for
        those of a typical batch they would promise a busy device twice what it can do.
        """
        profile = self._profiles[spec.name]
        if prompt[0] and prompt[1]:
            law_s = profile.prefill[form].seconds(prompt[0])
            self._learn(spec, _PREFILL_KEYS[form], prompt[1], law_s)
        if output[0] and output[1]:
            law_s = output[0] * profile.decode[form].seconds(batch)
            self._learn(spec, _DECODE_KEYS[form], output[1], law_s)

    def _predict(self, spec: ModelSpec, key: Key, law_s: float) -> Prediction:
        return predict(law_s, self._own.get((spec.name, key)), self._others.get(key))

    def _ratio(self, spec: ModelSpec, key: Key) -> float:
        """What `_predict` would multiply by, without saying where it comes from."""
        known = self._own.get((spec.name, key)) or self._others.get(key)
        return known.value if known is not None else 1.0

    def _learn(self, spec: ModelSpec, key: Key, measured_s: float, law_s: float) -> None:
        own = (spec.name, key)
        self._own[own] = learn(self._own.get(own), measured_s, law_s)
        self._others[key] = learn(self._others.get(key), measured_s, law_s)
