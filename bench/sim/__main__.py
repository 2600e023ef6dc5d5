"""What simulations are worth: beside real runs, and loads beside published times."""

import sys

from bench.serve.run import Scenes, main
from bench.sim.loads import loads
from bench.sim.truth import truth

SCENES: Scenes = {"truth": truth, "loads": loads}

if __name__ == "__main__":
    sys.exit(main("bench.sim", __doc__ or "", SCENES))
