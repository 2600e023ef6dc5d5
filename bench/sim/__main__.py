"""How fast the simulator is, how it grows, how true it is; policies."""

import sys

from bench.serve.run import Scenes, main
from bench.sim.forecast import forecast
from bench.sim.growth import growth
from bench.sim.live import live
from bench.sim.loads import loads
from bench.sim.lru import lru
from bench.sim.parity import parity
from bench.sim.policies import devices_needed, load_curves, policies
from bench.sim.speed import speed
from bench.sim.steps import steps
from bench.sim.tolls import tolls
from bench.sim.truth import truth

# Those that read this machine come first: the others give the same whatever runs beside them.
SCENES: Scenes = {
    "speed": speed,
    "growth": growth,
    "live": live,
    "tolls": tolls,
    "lru": lru,
    "parity": parity,
    "truth": truth,
    "loads": loads,
    "steps": steps,
    "policies": policies,
    "curves": load_curves,
    "needs": devices_needed,
    "forecast": forecast,
}

if __name__ == "__main__":
    sys.exit(main("bench.sim", __doc__ or "", SCENES))
