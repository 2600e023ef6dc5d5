"""Which forecaster the prewarming work starts from: SG-20, days 7 to 13, 10 and 60 minutes ahead.

Each stream by itself, window by window, with all that came before it.  The error of a stream is
what its forecasts were off in all, by what came in all; a table by kind of stream has the median.
The bars say what was seen before on single client streams: for ten minutes the mean of that time of
day is worse than the last value, and for an hour the season pays on daily streams.
"""

from collections import defaultdict
from statistics import median

import numpy as np

from bench.checks import Check, at_least, at_most
from bench.serve.run import Run
from bench.sim.data import DATA
from repertory.policy.forecast import FORECASTERS, Forecaster
from repertory.traces.servegen import WINDOW_S, ServeGenStream, read_clients, sg20_clients

__all__ = ["errors_of", "forecast"]

_PER_DAY = round(86_400 / WINDOW_S)
_FIRST, _LAST = 7, 13
_AHEAD = {"10 min": 1, "60 min": 6}


def errors_of(counts: np.ndarray, forecaster: Forecaster, ahead: int) -> float:
    """Absolute errors in all, by what came in all."""
    known = counts.astype(np.float64)
    wanted = range(_FIRST * _PER_DAY, (_LAST + 1) * _PER_DAY)
    off = sum(
        abs(forecaster(known[: at - ahead + 1], ahead, _PER_DAY) - known[at]) for at in wanted
    )
    return float(off / max(1.0, known[wanted[0] : wanted[-1] + 1].sum()))


def _streams() -> list[tuple[str, ServeGenStream]]:
    rows = sg20_clients(DATA)
    clients = [(row["model"], int(row["client"])) for row in rows]
    names = [f"{model.removeprefix('language/')}-{number}" for model, number in clients]
    streams = read_clients(DATA, clients, names)
    return [(row["pattern"], stream) for row, stream in zip(rows, streams, strict=True)]


def forecast(run: Run) -> list[Check]:
    streams = _streams()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for ahead_name, ahead in _AHEAD.items():
        table = found[ahead_name] = {}
        for name, forecaster in FORECASTERS.items():
            by_kind = defaultdict(list)
            for kind, stream in streams:
                by_kind[kind].append(errors_of(stream.counts, forecaster, ahead))
            table[name] = {kind: median(errors) for kind, errors in sorted(by_kind.items())}
            table[name]["all"] = median(one for errors in by_kind.values() for one in errors)
        _say(run, ahead_name, table)
    run.keep("forecast", found)
    soon, later = found["10 min"], found["60 min"]
    for ahead, table in found.items():
        for kind in table["persistence"]:
            best = min(table, key=lambda name: (table[name][kind], name))
            run.say(f"{ahead} ahead, {kind}: {best}")
    daily = "daily-periodic"
    return [
        at_least(
            "forecast, 10 min, all: the mean of that time of day, to persistence",
            "",
            soon["seasonal mean"]["all"] / soon["persistence"]["all"],
            1.0,
        ),
        at_most(
            "forecast, 60 min, daily streams: level x season, to persistence",
            "",
            later["level x season"][daily] / later["persistence"][daily],
            0.8,
        ),
    ]


def _say(run: Run, ahead: str, table: dict[str, dict[str, float]]) -> None:
    kinds = list(next(iter(table.values())))
    run.say(f"{ahead + ' ahead':16}" + "".join(f"{kind:>10}" for kind in kinds))
    for name, errors in table.items():
        run.say(f"{name:16}" + "".join(f"{errors[kind]:>10.3f}" for kind in kinds))
