"""ServeGen's production streams (Apache-2.0): 600-second windows of 14 days, drawn again.

In each window the published number of requests comes, with gaps of the published law, scaled so
that they fill the window and turned around in it by luck: else every window would begin with a
request.  Windows under 10 requests are blank in the source, so nothing comes in them.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repertory.domain.workloads import Arrival
from repertory.traces.columns import WorkloadError
from repertory.traces.parquet import read_columns
from repertory.traces.streams import (
    DAY_S,
    Days,
    Floats,
    Lengths,
    Quantile,
    arrivals_of,
    luck,
)

__all__ = [
    "DAYS",
    "WINDOW_S",
    "Client",
    "ServeGenStream",
    "holes",
    "read_clients",
    "sg20_clients",
]

DAYS = (0, 13)
WINDOW_S = 600.0
_WINDOWS_PER_DAY = 144
_LENGTHS_S = 21_600.0
_HOLE_SHARE = 0.02
"""A class whose streams together fall under this share of their median has no data there."""
_HOLED = "language/m-mid"
"""The class of which the source says so; in the other the least is a quarter of the median."""
Client = tuple[str, int]
"""Model class and number, as the source names a stream."""


def sg20_clients(folder: Path) -> list[dict[str, str]]:
    """The rows of the ready mix."""
    path = folder / "servegen" / "sg20.csv"
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The windows of all clients, as the file has them."""

    rows: dict[Client, NDArray[np.int64]]
    """Of each client, by time."""
    rates_per_s: Floats
    laws: list[str]
    shapes: Floats


@lru_cache(maxsize=1)
def _table(path: Path) -> _Table:
    columns = ("model", "client", "t", "rate", "pat", "p1")
    found = read_columns(path, columns)
    order = np.lexsort((found["t"], found["client"], np.array(found["model"])))
    rows: dict[Client, list[int]] = {}
    models, clients = found["model"], found["client"].tolist()
    for at in order.tolist():
        rows.setdefault((models[at], clients[at]), []).append(at)
    return _Table(
        {client: np.array(some) for client, some in rows.items()},
        found["rate"].astype(np.float64),
        found["pat"],
        found["p1"].astype(np.float64),
    )


def holes(folder: Path) -> NDArray[np.bool_]:
    """Windows in which m-mid has no data: all its clients near zero at once."""
    table = _table(folder / "servegen" / "arrivals.parquet")
    some = [rows for (model, _), rows in table.rows.items() if model == _HOLED]
    total = np.sum([table.rates_per_s[rows] for rows in some], axis=0)
    return np.asarray(total < _HOLE_SHARE * np.median(total))


@dataclass(frozen=True, slots=True, eq=False)
class ServeGenStream:
    name: str
    model: str
    counts: NDArray[np.int64]
    """Requests of each window."""
    laws: Sequence[str]
    shapes: Floats
    prompts: Sequence[Lengths]
    """Of each 6 hours."""
    outputs: Sequence[Lengths]

    def expected(self, days: Days) -> float:
        """Requests in these days."""
        first, last = days[0] * _WINDOWS_PER_DAY, (days[1] + 1) * _WINDOWS_PER_DAY
        return float(self.counts[first:last].sum())

    def arrivals(self, seed: int, days: Days, share: float = 1.0) -> Iterator[Arrival]:
        """`share`: each request stays with this probability."""
        for day in range(days[0], days[1] + 1):
            gaps = luck(seed, self.name, day, "gaps")
            sizes = luck(seed, self.name, day, "tokens")
            for window in range(day * _WINDOWS_PER_DAY, (day + 1) * _WINDOWS_PER_DAY):
                times_s = self._times(window, share, gaps)
                if len(times_s):
                    begin_s = window * WINDOW_S - days[0] * DAY_S
                    part = int(window * WINDOW_S // _LENGTHS_S)
                    source = _Part(self.model, self.prompts[part], self.outputs[part])
                    yield from arrivals_of(source, times_s + begin_s, sizes)

    def _times(self, window: int, share: float, gaps: np.random.Generator) -> Floats:
        count = int(self.counts[window])
        kept = count if share >= 1 else int(gaps.binomial(count, share))
        if not kept:
            return np.empty(0)
        law, shape = self.laws[window], float(self.shapes[window])
        drawn = _gaps(gaps, law, shape, count, kept)
        turned = (np.cumsum(drawn) / drawn.sum() + gaps.random()) % 1.0
        # A microsecond from the end, so that rounding leaves it in its window.
        return np.sort(turned) * (WINDOW_S - 1e-6)


@dataclass(frozen=True, slots=True)
class _Part:
    model: str
    prompt: Lengths
    output: Lengths
    priority: str = ""
    key: str = ""


def _gaps(gaps: np.random.Generator, law: str, shape: float, count: int, kept: int) -> Floats:
    """Between those that stay of `count` in a ring.  Only their shape matters: they are scaled."""
    first, steps = 0, np.ones(kept)
    if kept < count:
        chosen = np.sort(gaps.choice(count, kept, replace=False, shuffle=False))
        first, steps = int(chosen[0]), np.diff(chosen, append=chosen[0] + count)
    if law != "Weibull":
        # The sum of k Gamma gaps is one of k times the shape: what falls out is never drawn.
        drawn = gaps.gamma(shape * steps)
    else:
        each = np.roll(gaps.weibull(shape, count), -first)
        drawn = np.add.reduceat(each, np.cumsum(steps).astype(np.int64) - steps.astype(np.int64))
    # Shapes near 0 draw numbers too small to be told from it.
    return np.asarray(drawn if drawn.sum() > 0 else steps, dtype=np.float64)


def read_clients(
    folder: Path, clients: Sequence[Client], names: Sequence[str]
) -> list[ServeGenStream]:
    """Streams of these clients, under these names.

    Where m-mid has no data, the same window of the nearest day that has, the earlier first.
    """
    table = _table(folder / "servegen" / "arrivals.parquet")
    lengths = _lengths(folder, set(clients))
    filled = _filled(holes(folder))
    streams = []
    for client, name in zip(clients, names, strict=True):
        rows = table.rows.get(client)
        if rows is None or client not in lengths:
            raise WorkloadError(f"{folder / 'servegen'}: no rates or no lengths of {client}")
        if client[0] == _HOLED:
            rows = rows[filled]
        prompts, outputs = lengths[client]
        counts = np.rint(table.rates_per_s[rows] * WINDOW_S).astype(np.int64)
        laws = [table.laws[row] for row in rows.tolist()]
        streams.append(
            ServeGenStream(name, name, counts, laws, table.shapes[rows], prompts, outputs)
        )
    return streams


def _filled(is_hole: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each window, the one to take instead: itself, if it has data."""
    taken = np.arange(len(is_hole))
    for window in np.flatnonzero(is_hole).tolist():
        for days in (-1, 1, -2, 2, -3, 3, -4, 4, -5, 5):
            other = window + days * _WINDOWS_PER_DAY
            if 0 <= other < len(is_hole) and not is_hole[other]:
                taken[window] = other
                break
    return taken


def _lengths(
    folder: Path, clients: set[Client]
) -> dict[Client, tuple[list[Lengths], list[Lengths]]]:
    """Of each 6 hours, prompts and answers; where none were published, the nearest that were."""
    place = folder / "servegen"
    levels = np.array([float(word) for word in (place / "quantile_levels.txt").read_text().split()])
    table = read_columns(place / "lengths.parquet", ("model", "client", "t", "field", "quantiles"))
    found: dict[Client, dict[str, dict[int, Lengths]]] = {}
    rows = zip(
        table["model"],
        table["client"].tolist(),
        table["t"].tolist(),
        table["field"],
        table["quantiles"],
        strict=True,
    )
    for model, number, at_s, field, tokens in rows:
        if (model, number) in clients and tokens and not any(map(math.isnan, tokens)):
            parts = found.setdefault((model, number), {}).setdefault(field, {})
            parts[int(at_s // _LENGTHS_S)] = Quantile(levels, np.array(tokens))
    return {
        client: (_every(fields["input_tokens"]), _every(fields["output_tokens"]))
        for client, fields in found.items()
        if len(fields) == 2
    }


def _every(parts: dict[int, Lengths]) -> list[Lengths]:
    count = int((DAYS[1] + 1) * DAY_S // _LENGTHS_S)
    return [
        parts[min(parts, key=lambda known: (abs(known - wanted), known))] for wanted in range(count)
    ]
