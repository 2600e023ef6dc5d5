"""Published times of loads and wakes (`../shared/data/loadtimes`), each predicted from the others.

By model: the law of the same machine, loader and operation, without the model; of sleeping and
waking, without it in any of them.  By load: the raw runs of ServerlessLLM, each from the median of
the others of its model.
"""

import csv
import json
import statistics
from pathlib import Path

from bench.checks import Check, at_most
from bench.serve.run import Run
from bench.sim.data import DATA
from repertory.perf.gpu_loads import LoadReading, Way, left_out

__all__ = ["loads", "published_readings"]

_FOLDER = DATA / "loadtimes"
_BAR = 0.20


def loads(run: Run) -> list[Check]:
    if not _FOLDER.is_dir():
        run.say(f"loads is skipped: {_FOLDER} is not here")
        return []
    checks: list[Check] = []
    for way, errors in left_out(published_readings(_FOLDER)).items():
        name = f"{way.machine.split()[0]} {way.loader}, {way.operation}"
        run.keep(f"loads, {name}", errors)
        middle = statistics.median(errors.values())
        checks.append(
            at_most(f"{name}: a model left out, median of {len(errors)}", "", middle, _BAR)
        )
    for path in sorted(_FOLDER.glob("serverlessllm/**/*.json")):
        seconds = [one["loading_time"] for one in json.loads(path.read_text())]
        off = [
            abs(statistics.median(seconds[:at] + seconds[at + 1 :]) / one - 1.0)
            for at, one in enumerate(seconds)
        ]
        name = f"{path.stem}: a load left out, median of {len(off)}"
        checks.append(at_most(name, "", statistics.median(off), _BAR))
    return checks


def published_readings(folder: Path) -> list[LoadReading]:
    """Rows that say how many bytes were loaded."""
    found = []
    with (folder / "published_load_times.csv").open() as file:
        for row in csv.DictReader(file):
            if row["weights_gb"] and row["operation"] != "pcie_bandwidth_GBps":
                way = Way(row["hardware"], row["engine"], row["operation"])
                gpus = int(row["tp"] or 1)
                gpu_bytes = float(row["weights_gb"]) * 1e9 / gpus
                seconds = float(row["seconds"])
                found.append(LoadReading(way, row["model"], gpu_bytes, seconds, gpus))
    return found
