"""Repertory beside llama-server: throughput, first tokens, swaps, agents, a mixture, footprint.

Both serve the same files on the same cores.  llama-server is told the number of threads that is
better for it; ours runs as a person starts it.  Clients never retry.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from bench.checks import Check, finish
from bench.serve.agents import agents
from bench.serve.footprint import footprint
from bench.serve.mixture import mixture
from bench.serve.run import Run
from bench.serve.swaps import swaps
from bench.serve.throughput import throughput

SCENES: dict[str, Callable[[Run], list[Check]]] = {
    "footprint": footprint,
    "swaps": swaps,
    "agents": agents,
    "throughput": throughput,
    "mixture": mixture,
}


def main() -> int:
    options = argparse.ArgumentParser(prog="bench.serve", description=__doc__.partition("\n")[0])
    options.add_argument("--out", type=Path, default=Path("build/bench/serve.json"))
    options.add_argument("--peers", type=Path, default=Path("build/peers"))
    options.add_argument(
        "--only", action="append", choices=list(SCENES), help="a part, while working on it"
    )
    chosen = options.parse_args()
    found = sorted(chosen.peers.glob("llama-server-*/bin/llama-server"))
    if not found:
        sys.exit(f"no llama-server in {chosen.peers}: run `make peers`")
    run = Run(chosen.out.parent / "serve", found[-1])
    checks = [one for name in chosen.only or SCENES for one in SCENES[name](run)]
    return finish(chosen.out, checks, run.raw)


if __name__ == "__main__":
    sys.exit(main())
