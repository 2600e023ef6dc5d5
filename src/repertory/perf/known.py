"""What is known of one model on one device: its laws, and how real seconds stand to them."""

from dataclasses import dataclass

from repertory.domain.ladder import Edge, Rung
from repertory.domain.specs import ModelSpec, Placement, WeightsForm
from repertory.perf.bytes import share_there
from repertory.perf.costs import Grounds, Prediction, Ratio, grounds_of, learn, predict
from repertory.perf.profiles import KV_OUT, Key, Profile

__all__ = ["First", "Page"]

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
        error, believed = self.profile.errors.get(key), self.ratio(key)
        known = self.own.get(key)
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


def _first_law_s(spec: ModelSpec, edge: Edge) -> float:
    fixed_s, per_byte_s = _FIRST_LAWS[edge]
    return fixed_s + spec.weights_bytes * per_byte_s
