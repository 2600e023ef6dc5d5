"""What a busy server and its clients add to the costs of a worker on the same cores."""

from dataclasses import replace

from repertory.domain.fleets import Toll
from repertory.perf.profiles import Curve, Law, Profile, StepLaw

__all__ = ["beside_server"]


def beside_server(profile: Profile, toll: Toll) -> Profile:
    """A worker's costs where its server and clients want the same cores now and then."""
    return replace(
        profile,
        load={way: _later(law, toll.move_s) for way, law in profile.load.items()},
        activate=_later(profile.activate, toll.move_s),
        deactivate_s=profile.deactivate_s + toll.move_s,
        unload_s=profile.unload_s + toll.move_s,
        prefill={
            form: _more(law, toll.pace, toll.prompt_s, 0.0) for form, law in profile.prefill.items()
        },
        decode={
            form: _more(law, toll.pace, 0.0, toll.token_s) for form, law in profile.decode.items()
        },
    )


def _more(law: StepLaw, pace: float, fixed_s: float, each_s: float) -> StepLaw:
    points = tuple(
        (units, step_s * pace + fixed_s + each_s * units) for units, step_s in law.base.points
    )
    return StepLaw(Curve(points), law.per_pair_s * pace)


def _later(law: Law, by_s: float) -> Law:
    return Law(law.fixed_s + by_s, law.per_unit_s)
