"""Preemption, resume and crashes beside what llama-server does, with bars; JSON and a table."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from bench.checks import Check, finish
from bench.costs.behind import behind
from bench.costs.storm import storm
from bench.serve.run import Run

SCENES: dict[str, Callable[[Run], list[Check]]] = {"behind": behind, "storm": storm}


def main() -> int:
    options = argparse.ArgumentParser(prog="bench.costs", description=__doc__)
    options.add_argument("--out", type=Path, default=Path("build/bench/costs.json"))
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
