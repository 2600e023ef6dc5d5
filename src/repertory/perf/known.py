"""What is known of one model on one device: its laws, and how real seconds stand to them."""

from dataclasses import dataclass

from repertory.domain.ladder import Edge, Rung
from repertory.domain.specs import ModelSpec, Placement, WeightsForm
from repertory.perf.bytes import share_there
from repertory.perf.costs import Grounds, Prediction, Ratio, grounds_of, learn, predict
from repertory.perf.profiles import DECODE_KEYS, KV_OUT, PREFILL_KEYS, Key, Profile

__all__ = ["First", "Page", "Resuming"]

First = tuple[Edge, WeightsForm]
"""A kind of move whose first one in a worker is dearer."""
_FIRST_LAWS = {Edge.LOAD: (0.085, 0.0), Edge.ACTIVATE: (0.0, 1.1e-10)}
"""What it takes beyond later ones: seconds, and seconds per byte of weights.  A vocabulary of 32k
tokens is read in 40 to 85 ms whatever the weights; a first context computes a few tokens (50M 9 ms,
1.1B 119)."""


@dataclass(slots=True)
class Page:
    """What is known of one model on one device.  Several are asked for at every event."""

    profile: Profile
    own: dict[Key, Ratio]
    others: dict[Key, Ratio]
    """Of all models on devices of that kind."""
    firsts: dict[First, Ratio]
    """Of all models on devices of that kind: what first moves took, to `_FIRST_LAWS`."""
    done: set[First]
    """By this model there, since the worker came up."""

    def ratio(self, key: Key) -> float:
        """What a law is to be multiplied by; nobody else's where the law was fitted to readings."""
        known = self.own.get(key)
        if known is None and key not in self.profile.errors:
            known = self.others.get(key)
        return known.value if known is not None else 1.0

    def predict(self, key: Key, law_s: float) -> Prediction:
        error = self.profile.errors.get(key)
        return predict(law_s, self.own.get(key), self.others.get(key), error)

    def grounds(self, key: Key) -> Grounds:
        return grounds_of(self.own.get(key), self.profile.errors.get(key))

    def learn(self, key: Key, measured_s: float, law_s: float, weight: float = 1.0) -> Ratio:
        """`weight`: what the reading can tell (`perf.costs.telling`)."""
        error, known = self.profile.errors.get(key), self.own.get(key)
        believed = self.ratio(key) if known is None else known.value
        learned = learn(known, measured_s, law_s, error, weight=weight, believed=believed)
        self.own[key] = learned
        if error is None:
            self.others[key] = learn(self.others.get(key), measured_s, law_s, weight=weight)
        return learned

    def first_s(self, spec: ModelSpec, where: Placement, edge: Edge) -> float:
        """What the model's next move of that kind takes because it is its first in this worker; 0
        for a later one, and as long as nobody saw what any model's first one takes.
        """
        if not self.firsts or (edge, where.form) in self.done:
            return 0.0
        known = self.firsts.get((edge, where.form))
        return _first_law_s(spec, edge) * known.value if known is not None else 0.0

    def learn_first(self, spec: ModelSpec, where: Placement, edge: Edge, first_s: float) -> None:
        """A move of that kind was made; `first_s` of it no later one will take."""
        kind = (edge, where.form)
        self.done.add(kind)
        if first_s > 0.0:
            law_s = _first_law_s(spec, edge)
            self.firsts[kind] = learn(self.firsts.get(kind), first_s, law_s)

    def load_law_s(
        self, spec: ModelSpec, where: Placement, source: Rung, *, is_crowded: bool
    ) -> float:
        profile, share = self.profile, share_there(spec, where.layers)
        alone_s = profile.load_s(where.form, source, spec.weights_bytes, share)
        return alone_s * profile.crowding if is_crowded else alone_s

    def copy_law_s(self, way: Key, size_bytes: int) -> float:
        law = self.profile.kv_out if way == KV_OUT else self.profile.kv_in
        return law.seconds(size_bytes)

    def free_law_s(self, edge: Edge) -> float:
        if edge is Edge.DEACTIVATE:
            return self.profile.deactivate_s
        return self.profile.unload_s if edge is Edge.UNLOAD else self.profile.drop_s


class Resuming:
    """What taking generations up again takes in one place.  A weighed stop asks it several times of
    each that runs there, so what is the same for all of them is looked up once.
    """

    __slots__ = ("_decode", "_form", "_one_by_one", "_prefill", "_profile", "_resume", "_share")

    def __init__(
        self, page: Page, spec: ModelSpec, where: Placement, key: Key, *, one_by_one: bool
    ) -> None:
        """`key`: of resumes in that form."""
        form = where.form
        self._profile, self._form, self._one_by_one = page.profile, form, one_by_one
        self._share = share_there(spec, where.layers)
        self._prefill, self._decode = page.ratio(PREFILL_KEYS[form]), page.ratio(DECODE_KEYS[form])
        self._resume = page.ratio(key)

    def replay_s(self, prompt: int, made: int) -> float:
        """By the law alone: to compute a prompt again, and what was made after it."""
        chunked = prompt if self._one_by_one else prompt + made
        law_s = self._profile.prefill_s(self._form, chunked, 0, self._share) * self._prefill
        if self._one_by_one and made:
            step_s = self._profile.decode_s(self._form, 1, prompt + made / 2.0, self._share)
            law_s += made * step_s * self._decode
        return law_s

    def seconds(self, prompt: int, made: int, ahead_s: float = 0.0) -> float:
        """As `CostBook.resume_s`."""
        return (ahead_s + self.replay_s(prompt, made)) * self._resume


def _first_law_s(spec: ModelSpec, edge: Edge) -> float:
    fixed_s, per_byte_s = _FIRST_LAWS[edge]
    return fixed_s + spec.weights_bytes * per_byte_s
