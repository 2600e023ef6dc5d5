"""Prometheus' text format (0.0.4), written by hand.

The client library takes 188 ms for a page of 30 models and 10 keys, this 15 ms, measured in one
run; and for as long as it takes, no stream gets a token.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from repertory.gateway.observe.catalogue import Family
from repertory.gateway.observe.series import Counters, Spread

__all__ = ["TEXT_TYPE", "histogram", "numbers", "totals"]

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABEL = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def numbers(family: Family, values: Mapping[tuple[str, ...], float]) -> Iterator[str]:
    """A gauge, or a counter that is kept elsewhere."""
    yield _head(family)
    for labels, value in values.items():
        text = _labels(family, labels)
        yield (
            f"{family.series}{{{text}}} {float(value)!r}"
            if text
            else (f"{family.series} {float(value)!r}")
        )


def totals(counters: Counters) -> Iterator[str]:
    """A counter of ours."""
    return numbers(counters.family, {labels: one.value for labels, one in counters.items()})


def histogram(family: Family, series: Iterable[tuple[tuple[str, ...], Spread]]) -> Iterator[str]:
    yield _head(family)
    ends = [f'le="{bound!r}"}} ' for bound in family.bounds] + ['le="+Inf"} ']
    for labels, spread in series:
        text = _labels(family, labels)
        bucket = f"{family.name}_bucket{{{text},"
        counts = list(accumulate(spread.counts))
        for end, count in zip(ends, counts, strict=True):
            yield f"{bucket}{end}{count}.0"
        yield f"{family.name}_count{{{text}}} {counts[-1]}.0"
        yield f"{family.name}_sum{{{text}}} {float(spread.total)!r}"


def _head(family: Family) -> str:
    return f"# HELP {family.series} {family.text}\n# TYPE {family.series} {family.kind.value}"


def _labels(family: Family, values: tuple[str, ...]) -> str:
    """By name, so that a series reads the same wherever it stands."""
    pairs = sorted(zip(family.labels, values, strict=True))
    return ",".join(f'{name}="{value.translate(_LABEL)}"' for name, value in pairs)
