"""Named workloads: models, and a stream of arrivals by seed.

The published ones need the data folder; `week` needs nothing.  How published systems built theirs
is in each recipe's `about`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

from repertory.domain.errors import ConfigError
from repertory.domain.workloads import Arrival
from repertory.traces.files import Say, read_workload
from repertory.traces.published import (
    azure_2023_files,
    begin_of,
    read_azure_2023,
    read_azure_2024,
    read_mooncake,
    sniffed,
)
from repertory.traces.servegen import DAYS as SERVEGEN_DAYS
from repertory.traces.servegen import read_clients, sg20_clients
from repertory.traces.streams import (
    DAY_S,
    Days,
    Stream,
    luck,
    merged,
    power_law,
)
from repertory.traces.synthetic import mux_streams, tail_streams, week_streams

__all__ = [
    "RECIPES",
    "SIZES",
    "Recipe",
    "RecipeModel",
    "default_recipe",
    "find_recipe",
    "is_file_name",
    "open_file",
]

SIZES = {"7B": 7_000_000_000, "13B": 13_000_000_000, "70B": 70_000_000_000}
"""Parameters of each class; the classes that published comparisons use."""
_AZ_W_MODELS, _AZ_W_PER_S = 7, 10.0


@dataclass(frozen=True, slots=True)
class RecipeModel:
    name: str
    size: str

    @property
    def parameters(self) -> int:
        return SIZES[self.size]


class _Streaming(Protocol):
    @property
    def name(self) -> str: ...
    def arrivals(self, seed: int, days: Days, share: float) -> Iterator[Arrival]: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """`days`: all of it.  Of 14 days the first seven are history, what a forecaster may learn."""

    name: str
    about: str
    models: tuple[RecipeModel, ...]
    days: Days
    mean_per_s: Callable[[Days], float]
    """What it comes to, unless it is thinned."""
    _streams: Callable[[], Sequence[_Streaming]]
    replay_s: float | None = None
    """How long it was, where it is told again as it was: it has no days to choose from."""
    last_day: int | None = None
    """The last that can be asked for; None: streams go on for ever."""

    def arrivals(
        self,
        seed: int = 0,
        *,
        days: Days | None = None,
        rate_per_s: float | None = None,
        requests: int | None = None,
    ) -> Iterator[Arrival]:
        """In order, lazily.

        `days`: only these, the first of which begins at 0 s.  `rate_per_s`: thinned to this mean:
        each request stays with the same probability, and time keeps its pace.  `requests`: it ends
        after so many.
        """
        chosen = self.checked(days)
        streams = sorted(self._streams(), key=lambda one: one.name)
        share = self._share(chosen, rate_per_s)
        return islice(merged([one.arrivals(seed, chosen, share) for one in streams]), requests)

    def checked(self, days: Days | None) -> Days:
        if days is None:
            return self.days
        if self.replay_s is not None:
            raise ConfigError(f"{self.name} is one hour as it was: it has no days to choose from")
        last = self.last_day
        if not 0 <= days[0] <= days[1] or (last is not None and days[1] > last):
            end = "" if last is None else f" to {last}"
            raise ConfigError(
                f"{self.name} has days from 0{end}, in order, and not {days[0]}-{days[1]}"
            )
        return days

    def expected_requests(self, days: Days | None = None, rate_per_s: float | None = None) -> float:
        """On average over seeds."""
        chosen = self.checked(days)
        span_s = self.replay_s or (chosen[1] - chosen[0] + 1) * DAY_S
        return self.mean_per_s(chosen) * self._share(chosen, rate_per_s) * span_s

    def _share(self, days: Days, rate_per_s: float | None) -> float:
        if rate_per_s is None:
            return 1.0
        own_per_s = self.mean_per_s(days)
        if not 0 < rate_per_s <= own_per_s * (1 + 1e-9):
            raise ConfigError(
                f"{self.name} has {own_per_s:.3g} requests/s in these days: it can be thinned to"
                f" less, not to {rate_per_s:g}"
            )
        return min(1.0, rate_per_s / own_per_s)


def sized(names: Sequence[str]) -> tuple[RecipeModel, ...]:
    """Names by demand, most first: half are 7B, the next 3 of 10 are 13B, the rest 70B.

    No source tells sizes; small models are asked most where both are offered.
    """
    count = len(names)
    sizes = [
        "7B" if at < count / 2 else "13B" if at < count * 0.8 else "70B" for at in range(count)
    ]
    return tuple(RecipeModel(name, size) for name, size in zip(names, sizes, strict=True))


def _needed(name: str, data: Path | None) -> Path:
    if data is None:
        raise ConfigError(
            f"{name} needs published data: name its folder with --data DIR or REPERTORY_DATA;"
            " the recipes week, mux-16 and tail-100 need none"
        )
    if not data.is_dir():
        raise ConfigError(f"{data}: there is no such folder; --data DIR or REPERTORY_DATA names it")
    return data


def _sg20(data: Path | None) -> Recipe:
    folder = _needed("sg-20", data)
    rows = sg20_clients(folder)
    clients = [(row["model"], int(row["client"])) for row in rows]
    names = [f"{model.removeprefix('language/')}-{number}" for model, number in clients]
    demand = {
        name: float(row["mean_rate"]) * (float(row["mean_input"]) / 8 + float(row["mean_output"]))
        for name, row in zip(names, rows, strict=True)
    }
    streams = read_clients(folder, clients, names)

    def mean_per_s(days: Days) -> float:
        return sum(one.expected(days) for one in streams) / ((days[1] - days[0] + 1) * DAY_S)

    return Recipe(
        "sg-20",
        "20 production streams of ServeGen (daily, steady, bursty, sporadic), 14 days; days 0-6 are"
        " history, 7-13 the test",
        sized(sorted(names, key=lambda name: (-demand[name], name))),
        SERVEGEN_DAYS,
        mean_per_s,
        lambda: streams,
        last_day=SERVEGEN_DAYS[1],
    )


def _az_w(data: Path | None, alpha: float) -> Recipe:
    name = f"az-w-{alpha:g}"
    folder = _needed(name, data)
    weeks = {service: read_azure_2024(folder, service) for service in ("conv", "code")}
    streams = []
    for at, share in enumerate(power_law(_AZ_W_MODELS, alpha).tolist()):
        service = "conv" if at % 2 == 0 else "code"
        week = weeks[service]
        curve = week.curve.times(share * _AZ_W_PER_S / week.curve.mean_per_s)
        model = f"{service}-{at}"
        streams.append(Stream(model, model, curve.later(at * DAY_S), week.prompt, week.output))
    return Recipe(
        name,
        f"Azure's week of 2024 for {_AZ_W_MODELS} models, chat and code in turns, each a day later"
        f" than the one before, rates by a power law of {alpha:g}",
        sized([one.model for one in streams]),
        (0, 13),
        partial(_mean_of, streams),
        lambda: streams,
    )


def _mean_of(streams: Sequence[Stream], days: Days) -> float:
    return sum(one.mean_per_s(days) for one in streams)


@dataclass(frozen=True, slots=True)
class _Replay:
    name: str
    path: Path
    first: Path
    """Of the files that keep one clock, the one that begins it."""

    def arrivals(self, seed: int, days: Days, share: float) -> Iterator[Arrival]:
        stays = luck(seed, self.name, "thinned")
        for one in read_azure_2023(self.path, self.name, begin_of(self.first)):
            if share >= 1 or stays.random() < share:
                yield one


def _az23(data: Path | None) -> Recipe:
    folder = _needed("az23", data)
    files = azure_2023_files(folder)
    first = min(files.values(), key=begin_of)
    streams = [_Replay(service, path, first) for service, path in sorted(files.items())]
    times_s = [one.at_s for stream in streams for one in stream.arrivals(0, (0, 0), 1.0)]
    length_s = max(times_s)
    return Recipe(
        "az23",
        "Azure's two services of 2023, every request of an hour as it came",
        (RecipeModel("conv", "70B"), RecipeModel("code", "13B")),
        (0, 0),
        lambda days: len(times_s) / length_s,
        lambda: streams,
        replay_s=length_s,
    )


def _made(
    name: str, about: str, streams_of: Callable[[], list[Stream]], data: Path | None
) -> Recipe:
    """Of streams that need no data."""
    streams = streams_of()
    whole = (0, 6) if name == "week" else (0, 0)
    by_demand = sorted(streams, key=lambda one: (-one.mean_per_s((0, 6)), one.model))
    return Recipe(
        name,
        about,
        sized([one.model for one in by_demand]),
        whole,
        partial(_mean_of, streams),
        lambda: streams,
    )


_WEEK = "our own: 12 models that are daily, steady, bursty or sporadic; any days"
_MUX = "16 models by a power law of {}, Poisson, lengths as in MuxServe's (161 in, 337 out)"
_TAIL = "100 models, 94 of which get 1.35 % of the requests, as a provider reported (Aegaeon)"

RECIPES: dict[str, Callable[[Path | None], Recipe]] = {
    "sg-20": _sg20,
    "az-w-0.5": partial(_az_w, alpha=0.5),
    "az-w-1": partial(_az_w, alpha=1.0),
    "az-w-2": partial(_az_w, alpha=2.0),
    "az23": _az23,
    "mux-16": partial(_made, "mux-16", _MUX.format(1), partial(mux_streams, 1.0)),
    "mux-16-0.5": partial(_made, "mux-16-0.5", _MUX.format(0.5), partial(mux_streams, 0.5)),
    "mux-16-2": partial(_made, "mux-16-2", _MUX.format(2), partial(mux_streams, 2.0)),
    "tail-100": partial(_made, "tail-100", _TAIL, tail_streams),
    "week": partial(_made, "week", _WEEK, week_streams),
}


def find_recipe(name: str, data: Path | None = None) -> Recipe:
    made = RECIPES.get(name.lower())
    if made is None:
        if Path(name).exists():
            words = "a file's name ends in .jsonl, .jsonl.gz, .parquet or .csv: rename it"
            raise ConfigError(f"{name} is there, but {words}")
        raise ConfigError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return made(data)


def default_recipe(data: Path | None) -> str:
    """Where nobody chose."""
    return "week" if data is None else "sg-20"


def is_file_name(word: str) -> bool:
    """Whether a word that could be a recipe's name is a file's."""
    return ("." in Path(word).name and word.lower() not in RECIPES) or "/" in word


def open_file(path: Path, say: Say | None = None, requests: int | None = None) -> Iterator[Arrival]:
    """A workload in our format, or a published trace in its own, told apart by what is in it."""
    readers: dict[str, Callable[[], Iterator[Arrival]]] = {
        "azure": lambda: read_azure_2023(path),
        "mooncake": lambda: read_mooncake(path),
        "ours": lambda: read_workload(path, say),
    }
    return islice(readers[sniffed(path)](), requests)
