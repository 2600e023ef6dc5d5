"""Repertory beside llama-server: throughput, first tokens, swaps, agents, a mixture, footprint.

Both serve the same files on the same cores.  llama-server is told the number of threads that is
better for it; ours runs as a person starts it.  Clients never retry.
"""

import sys

from bench.serve.agents import agents
from bench.serve.footprint import footprint
from bench.serve.mixture import mixture
from bench.serve.run import Scenes, main
from bench.serve.swaps import swaps
from bench.serve.throughput import throughput

SCENES: Scenes = {
    "footprint": footprint,
    "swaps": swaps,
    "agents": agents,
    "throughput": throughput,
    "mixture": mixture,
}

if __name__ == "__main__":
    sys.exit(main("bench.serve", __doc__ or "", SCENES))
