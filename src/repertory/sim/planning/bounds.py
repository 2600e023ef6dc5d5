"""Fleets that cannot do, known without a run: too little memory for a model, too few operations.

What is taken to be needed is less than what is: a fleet that could do is never left out.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil, inf

import numpy as np

from repertory.domain.errors import ConfigError
from repertory.domain.fleets import Fleet
from repertory.perf.profiles import StepLaw
from repertory.sim.planning.search import Choice, Offer
from repertory.sim.planning.stretches import Asked
from repertory.sim.world import World, unfit
from repertory.traces.summary import Slo

__all__ = ["Bounds"]


class Bounds:
    """Of all fleets that can be made; `make` makes one, with the models that it is to serve."""

    def __init__(self, make: Callable[[Choice], Fleet], asked: Asked, slo: Slo) -> None:
        self.fleet = lru_cache(maxsize=None)(make)
        self._asked = asked
        self._slo = slo
        self._unfit = lru_cache(maxsize=None)(lambda choice: unfit(self.fleet(choice)))
        self.least_devices = lru_cache(maxsize=None)(self._least_devices)

    def is_enough(self, choice: Choice) -> bool:
        """Both bounds.  A part of the work goes to each type, in any shares."""
        least = {name: self.least_devices(name) for name, _ in choice.parts}
        share = sum(count / least[name] for name, count in choice.parts if least[name])
        return (share >= 1.0 or not all(least.values())) and not self._unfit(choice)

    def exclusion(self, offer: Offer, most: int) -> str | None:
        """Why no number of this type, up to `most`, can do; None: some can."""
        counts = [count for count in offer.counts if count <= most]
        if not counts:
            return f"a node of it has more devices than the {most} that may be had (--max-devices)"
        largest = Choice(((offer.name, counts[-1]),))
        misfits: Sequence[str] = self._unfit(largest)
        if misfits:
            more = f" (and {len(misfits) - 1} more)" if len(misfits) > 1 else ""
            return f"{misfits[0]}{more}"
        if not self.is_enough(largest):
            least = self.least_devices(offer.name)
            return f"the work alone takes {least:.0f} of them at the least, and {most} may be had"
        return None

    def refused(self, choice: Choice) -> int:
        """Requests of the stretch that are longer than their model's context: no fleet helps."""
        contexts = {spec.name: spec.context_tokens for spec in self.fleet(choice).models}
        return sum(
            int((lengths.prompt + lengths.output > contexts[model]).sum())
            for model, lengths in self._asked.models.items()
        )

    def _least_devices(self, name: str) -> float:
        """Of one type: every step as full as can be, so that only what each token adds counts.

        Who may be late needs nothing: the warm-up, and of the rest the dearest, by either limit.
        """
        fleet = self.fleet(Choice(((name, 1),)))
        world, device = World(fleet, 0, 0.0, {}), fleet.devices[0]
        specs = {spec.name: spec for spec in fleet.models}
        works = []
        for model, lengths in self._asked.models.items():
            spec = specs.get(model)
            if spec is None:
                raise ConfigError(
                    f"the workload asks for {model!r}, which is none of the models: "
                    f"{', '.join(specs)}; add it to --models"
                )
            profile = world.profile(spec, device)
            prompt_s = min(_more_s(law) for law in profile.prefill.values())
            output_s = min(_more_s(law) for law in profile.decode.values())
            each_s = lengths.prompt * prompt_s + lengths.output * output_s
            works.append(each_s * spec.devices_per_replica)
        works_s = np.sort(np.concatenate(works))
        share = max(0.0, self._slo.ttft_share + self._slo.tpot_share - 1.0)
        in_time = ceil(share * self._asked.counted)
        return float(works_s[:in_time].sum()) / self._window_s()

    def _window_s(self) -> float:
        """The last request that must be in time may take this long after it came; without a limit
        on both parts of an answer, for ever.
        """
        slo = self._slo
        if slo.ttft_s is None or slo.tpot_s is None:
            return inf
        longest = max(int(lengths.output.max()) for lengths in self._asked.models.values())
        return self._asked.stretch.span_s + slo.ttft_s + slo.tpot_s * longest


def _more_s(law: StepLaw) -> float:
    return law.base.seconds(2.0) - law.base.seconds(1.0)
