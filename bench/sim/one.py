"""One timed run, in a process of its own: `python -m bench.sim.one '{"requests": 10000}'`.

The seconds are processor time of this process, from the first event to the last record written;
reading the traces' tables before that is not counted, making their arrivals is.
"""

import cProfile
import gc
import json
import os
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from bench.sim.data import DATA
from bench.sim.stand import fleet_of
from repertory.domain.settings import Settings
from repertory.domain.workloads import Origin, RunHeader
from repertory.sim.play import Scenario, play
from repertory.sim.sinks import HashSink, LogSink
from repertory.traces.recipes import find_recipe
from repertory.traces.runs import RunWriter

PARTS = {
    "brain": ("/core/", "/policy/", "/perf/costs.py", "/perf/fit.py", "/perf/bytes.py"),
    "log": ("/core/journal.py", "/sim/sinks.py", "hashlib", "sha256", "Encoder"),
    "engines": ("/engines/", "/perf/profiles.py"),
    "driver": ("/sim/driver.py", "/domain/"),
    "workload and records": ("/traces/", "/sim/play.py", "numpy"),
}
"""Where functions belong, by their files: the last that fits."""


def played(
    wanted: dict[str, Any], folder: Path, profiled: cProfile.Profile | None = None
) -> dict[str, Any]:
    recipe = find_recipe(wanted.get("recipe", "sg-20"), DATA if DATA.is_dir() else None)
    sizes = [(one.name, one.parameters) for one in recipe.models]
    fleet = fleet_of(sizes, wanted.get("devices", 16))
    days = (7, 13) if wanted.get("recipe", "sg-20") == "sg-20" else None
    arrivals = recipe.arrivals(
        0, days=days, rate_per_s=wanted.get("rate_per_s"), requests=wanted["requests"]
    )
    header = RunHeader("repertory", Origin.SIMULATED, recipe.name, 0, fleet=fleet.words)
    with ExitStack() as stack:

        def opened(name: str) -> BinaryIO:
            return stack.enter_context((folder / name).open("wb"))

        writer = RunWriter(opened("run.jsonl"), header)
        sink = HashSink()
        if wanted.get("log"):
            sink = LogSink(opened("decisions.jsonl"), Settings())
        record: Callable[[Any], None] = sink
        if wanted.get("sink") == "none":
            record = _nowhere
        gc.collect()
        gc.freeze()
        began_s = time.process_time()
        if profiled is not None:
            profiled.enable()
        result = play(Scenario(fleet, "repertory"), arrivals, writer.add, record)
        if profiled is not None:
            profiled.disable()
        digest = sink.digest()  # what is left is written with it
        seconds = time.process_time() - began_s
    return {
        **wanted,
        "seconds": seconds,
        "simulated_s": result.end_s,
        "requests": result.requests,
        "models": len(fleet.models),
        "devices": len(fleet.devices),
        "decisions": sink.decisions,
        "digest": digest,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _nowhere(_: object) -> None:
    """No sink."""


def shares(profiled: cProfile.Profile) -> dict[str, float]:
    """Of the time of all functions, by the part of the program that they belong to."""
    found = dict.fromkeys((*PARTS, "other"), 0.0)
    entries: dict[tuple[str, int, str], Any] = pstats.Stats(profiled).stats  # type: ignore[attr-defined]
    for (path, _, name), (_, _, own_s, _, callers) in entries.items():
        if path != "~":
            found[_part(path)] += own_s
            continue
        for caller, times in callers.items():  # built-in functions count for who calls them
            where = "log" if "Encoder" in name or "sha256" in name else _part(caller[0])
            found[where] += times[2]
    total = sum(found.values())
    return {part: own_s / total for part, own_s in found.items()}


def _part(path: str) -> str:
    fits = [part for part, places in PARTS.items() if any(one in path for one in places)]
    if "log" in fits:
        return "log"
    return fits[-1] if fits else "other"


def main() -> None:
    wanted = json.loads(sys.argv[1])
    is_profiled = wanted.pop("profile", False)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        profiled = cProfile.Profile() if is_profiled else None
        found = played(wanted, Path(folder), profiled)
    if profiled is not None:
        found["shares"] = shares(profiled)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
