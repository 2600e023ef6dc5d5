"""Fleets that cannot do, known without a run: too little memory for a model, too few operations."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from repertory.domain.errors import ConfigError
from repertory.domain.fleets import Fleet
from repertory.perf.profiles import StepLaw
from repertory.sim.planning.search import Choice, Offer
from repertory.sim.planning.stretches import Asked
from repertory.sim.world import World, unfit

__all__ = ["Bounds"]

_SPARED = 0.8
"""Of the work, what is done for certain: a hundredth of the requests may fail (the longest of
log-normal lengths hold 9 % of the tokens), and the last end after the last has come."""


class Bounds:
    """Of all fleets that can be made; `make` makes one, with the models that it is to serve."""

    def __init__(self, make: Callable[[Choice], Fleet], asked: Asked) -> None:
        self.fleet = lru_cache(maxsize=None)(make)
        self._asked = asked
        self._unfit = lru_cache(maxsize=None)(lambda choice: unfit(self.fleet(choice)))
        self.least_devices = lru_cache(maxsize=None)(self._least_devices)

    def is_enough(self, choice: Choice) -> bool:
        """Both bounds.  A part of the work goes to each type, in any shares."""
        share = sum(count / self.least_devices(name) for name, count in choice.parts)
        return share >= 1.0 and not self._unfit(choice)

    def exclusion(self, offer: Offer, most: int) -> str | None:
        """Why no number of this type, up to `most`, can do; None: some can."""
        counts = [count for count in offer.counts if count <= most]
        if not counts:
            return f"its nodes have {min(offer.counts, default=0)} devices, and {most} may be had"
        largest = Choice(((offer.name, counts[-1]),))
        misfits: Sequence[str] = self._unfit(largest)
        if misfits:
            more = f" (and {len(misfits) - 1} more)" if len(misfits) > 1 else ""
            return f"{misfits[0]}{more}"
        if not self.is_enough(largest):
            least = self.least_devices(offer.name)
            return f"the work alone takes {least:.0f} of them at the least, and {most} may be had"
        return None

    def _least_devices(self, name: str) -> float:
        """Of one type: every step as full as can be, so that only what each token adds counts."""
        fleet = self.fleet(Choice(((name, 1),)))
        world, device = World(fleet, 0, 0.0, {}), fleet.devices[0]
        specs = {spec.name: spec for spec in fleet.models}
        total_s = 0.0
        for model, tokens in self._asked.models.items():
            spec = specs.get(model)
            if spec is None:
                raise ConfigError(
                    f"the workload asks for {model!r}, which is none of the models: "
                    f"{', '.join(specs)}; add it to --models"
                )
            profile = world.profile(spec, device)
            prompt_s = min(_more_s(law) for law in profile.prefill.values())
            output_s = min(_more_s(law) for law in profile.decode.values())
            each_s = tokens.prompt * prompt_s + tokens.output * output_s
            total_s += each_s * spec.devices_per_replica
        return _SPARED * total_s / max(self._asked.stretch.span_s, 1e-6)


def _more_s(law: StepLaw) -> float:
    return law.base.seconds(2.0) - law.base.seconds(1.0)
