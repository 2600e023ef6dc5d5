"""The additive law on sweeps that others can look up, each from its two ends.

Decode tokens/s by layers on the device: a 300M of 16 layers on the asymmetric pair, as recorded
when this project began, and the two readings of the paper's figure (Yildiz 2026, at 90 % of the
layers; read off by eye, so they are held to a point and not to the bar).
"""

from bench.checks import Check, at_most
from bench.serve.run import Run
from repertory.perf.divided import share_of
from repertory.perf.offload import OffloadLaw, Point, fit
from repertory.perf.profiles import Law

__all__ = ["published"]

_LAYERS = 16
_LAYER_BYTES = 13 << 20
_HEAD_BYTES = round(2.8 * _LAYER_BYTES)
"""The output head of a 300M is as large as 2.8 of its layers."""
_SWEEPS = {
    "300M q8_0": {0: 28.9, 4: 35.5, 8: 46.2, 12: 60.5, 16: 87.3, 17: 97.5},
    "300M q4_0": {0: 12.1, 4: 16.4, 8: 22.3, 12: 34.5, 16: 80.7, 17: 120.0},
}
_READINGS = {"Llama 3 8B": (7.7, 0.60), "Llama 2 70B": (3.5, 0.80)}
"""rho, and the share of the full speed that is left at 90 % of the layers."""
_BAR = 0.06
_CONTEXT = 64


def published(run: Run) -> list[Check]:
    checks = []
    for name, sweep in _SWEEPS.items():
        points = [_point(layers, speed) for layers, speed in sweep.items()]
        law = fit([points[0], points[-1]]).law
        off = {
            layers: law.seconds(one.share, _CONTEXT) / one.seconds - 1.0
            for layers, one in zip(sweep, points, strict=True)
        }
        run.keep(f"published, {name}", off)
        worst = max(abs(one) for one in off.values())
        checks.append(at_most(f"published sweep, {name}: worst error of 6", "", worst, _BAR))
    for name, (rho, left) in _READINGS.items():
        law = OffloadLaw(Law(1.0, 0.0), Law(rho, 0.0))
        off_by = abs(law.normalised(0.9, 0) - left)
        checks.append(at_most(f"the paper's reading, {name}: off by", "", off_by, 0.01))
    return checks


def _point(layers: int, tokens_per_s: float) -> Point:
    """The head is counted as the first layer there, and alone it is 2.8 layers' worth."""
    share = share_of(max(0, layers - 1), _LAYERS, _HEAD_BYTES, _LAYERS * _LAYER_BYTES)
    return Point(share, _CONTEXT, 1.0 / tokens_per_s)
