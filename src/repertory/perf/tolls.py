"""What a busy server and its clients add to the steps of a worker on the same cores."""

from dataclasses import replace

from repertory.domain.fleets import Toll
from repertory.perf.profiles import Curve, Profile, StepLaw

__all__ = ["beside_server"]


def beside_server(profile: Profile, toll: Toll) -> Profile:
    """A worker's steps where its server and clients want the same cores now and then.

    What a prompt and a request take more is no part of these laws: it is the step loop's.
    """
    return replace(
        profile,
        prefill={form: _more(law, toll.pace, 0.0) for form, law in profile.prefill.items()},
        decode={form: _more(law, toll.pace, toll.step_s) for form, law in profile.decode.items()},
    )


def _more(law: StepLaw, pace: float, fixed_s: float) -> StepLaw:
    points = tuple((units, step_s * pace + fixed_s) for units, step_s in law.base.points)
    return StepLaw(Curve(points), law.per_pair_s * pace)
