"""Several servers on one workload, in turns, and their ratios.

A machine that grows slower in an hour would make the last server look bad: each plays the workload
once, then again in the opposite order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from repertory.traces.summary import Summary

__all__ = ["FIGURES", "Row", "rows_of", "turns"]


def turns(names: Sequence[str], repeats: int) -> Iterator[tuple[int, str]]:
    """(repeat, server): A B, B A, A B, ..."""
    for repeat in range(repeats):
        yield from ((repeat, name) for name in (names if repeat % 2 == 0 else names[::-1]))


FIGURES: dict[str, Callable[[Summary], float | None]] = {
    "TTFT p50, s": lambda one: one.total.ttft.p50_s,
    "TTFT p95, s": lambda one: one.total.ttft.p95_s,
    "TTFT p99, s": lambda one: one.total.ttft.p99_s,
    "TPOT p50, s": lambda one: one.total.tpot.p50_s,
    "TPOT p99, s": lambda one: one.total.tpot.p99_s,
    "latency p50, s": lambda one: one.total.latency.p50_s,
    "not done": lambda one: float(one.total.requests - one.total.done),
    "goodput, requests/s": lambda one: one.total.goodput_per_s,
    "goodput, tokens/s": lambda one: one.total.goodput_tokens_per_s,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: by server its median over the repeats (None: more than half had none), and by
    server but the first the median of its ratios to the first, repeat by repeat.
    """

    name: str
    values: dict[str, float | None]
    ratios: dict[str, float | None]


def rows_of(found: dict[str, list[Summary]]) -> list[Row]:
    """`found`: of each server its repeats, in order; the first server is what others stand to."""
    first = next(iter(found))
    rows = []
    for name, figure in FIGURES.items():
        read = {server: [figure(one) for one in repeats] for server, repeats in found.items()}
        values = {server: _middle(each) for server, each in read.items()}
        ratios = {
            server: _middle([_ratio(one, own) for one, own in zip(each, read[first], strict=False)])
            for server, each in read.items()
            if server != first
        }
        rows.append(Row(name, values, ratios))
    return rows


def _ratio(one: float | None, own: float | None) -> float | None:
    return one / own if one is not None and own else None


def _middle(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return median(known) if len(known) > len(values) / 2 else None
