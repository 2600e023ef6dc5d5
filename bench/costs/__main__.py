"""What predictions err by, what stopping costs beside llama-server, and what outlives a worker."""

import sys

from bench.costs.behind import behind
from bench.costs.dear import dear
from bench.costs.errors import errors
from bench.costs.kv import kv
from bench.costs.mixed import mixed
from bench.costs.offload import offload
from bench.costs.published import published
from bench.costs.served import served
from bench.costs.simulated import simulated
from bench.costs.storm import storm
from bench.serve.run import Scenes, main

SCENES: Scenes = {
    "errors": errors,
    "kv": kv,
    "behind": behind,
    "dear": dear,
    "mixed": mixed,
    "storm": storm,
    "offload": offload,
    "published": published,
    "simulated": simulated,
    "served": served,
}

if __name__ == "__main__":
    sys.exit(main("bench.costs", __doc__ or "", SCENES))
