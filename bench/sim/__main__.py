"""What simulations are worth beside real runs, loads beside published times, and forecasts."""

import sys

from bench.serve.run import Scenes, main
from bench.sim.forecast import forecast
from bench.sim.loads import loads
from bench.sim.steps import steps
from bench.sim.truth import truth

SCENES: Scenes = {"truth": truth, "loads": loads, "steps": steps, "forecast": forecast}

if __name__ == "__main__":
    sys.exit(main("bench.sim", __doc__ or "", SCENES))
