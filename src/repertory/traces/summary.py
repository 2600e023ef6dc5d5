"""What a run came to: latencies, ends and goodput, in all and by model.

A request that never had what is measured counts as slower than any that had: who refuses half of
its work is not fast.  A quantile that falls on such a request is None.
"""

import math
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from repertory.domain.errors import ConfigError
from repertory.domain.workloads import Ending, RequestRecord

__all__ = ["Figures", "Quantiles", "Slo", "Summary", "parse_slo", "summarise"]

AT_ONCE_S = 0.1
"""A first token under 100 ms is felt as at once; the papers report this share."""
_UNITS_S = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_TERM = re.compile(r"(ttft|tpot)_p(\d+(?:\.\d+)?)\s*<\s*(\d+(?:\.\d+)?)\s*(us|µs|ms|s|min)")


@dataclass(frozen=True, slots=True)
class Slo:
    """What answers are wanted: limits of one request, and the share that must be within each."""

    ttft_s: float | None = None
    """Seconds to the first token; None: no matter."""
    tpot_s: float | None = None
    """Seconds per output token after it."""
    ttft_share: float = 0.99
    """0.99: this limit is on the 99th percentile."""
    tpot_share: float = 0.99

    def __str__(self) -> str:
        terms = (
            ("ttft", self.ttft_s, self.ttft_share),
            ("tpot", self.tpot_s, self.tpot_share),
        )
        return ",".join(
            f"{name}_p{share * 100:.10g}<{_time(limit_s)}"
            for name, limit_s, share in terms
            if limit_s is not None
        )

    def has_first_in_time(self, record: RequestRecord) -> bool:
        return _has_first_in_time(record, self.ttft_s)

    def has_rest_in_time(self, record: RequestRecord) -> bool:
        return _has_rest_in_time(record, self.tpot_s)


def parse_slo(text: str) -> Slo:
    """Of `ttft_p99<2s,tpot_p99<100ms`; one of the two is enough."""
    found: dict[str, tuple[float, float]] = {}
    for term in text.split(","):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise ConfigError(
                f"{term.strip()!r} is no objective; write them like ttft_p99<2s,tpot_p99<100ms"
            )
        name, percent, limit, unit = match.groups()
        share, limit_s = float(percent) / 100, float(limit) * _UNITS_S[unit]
        if name in found:
            raise ConfigError(f"{text!r} has two limits of {name}; leave one")
        if not 0 < share < 1 or limit_s <= 0:
            raise ConfigError(
                f"{term.strip()!r}: percentiles are over 0 and under 100, limits over 0"
            )
        found[name] = (limit_s, share)
    ttft_s, ttft_share = found.get("ttft", (None, 0.99))
    tpot_s, tpot_share = found.get("tpot", (None, 0.99))
    return Slo(ttft_s, tpot_s, ttft_share, tpot_share)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.10g}ms" if seconds < 1 else f"{seconds:.10g}s"


def _has_first_in_time(record: RequestRecord, limit_s: float | None) -> bool:
    """Without a limit it still has to end well."""
    if record.ending is not Ending.DONE:
        return False
    ttft_s = record.ttft_s
    wanted_s = min(
        math.inf if limit_s is None else limit_s,
        math.inf if record.deadline_s is None else record.deadline_s,
    )
    return wanted_s == math.inf or (ttft_s is not None and ttft_s < wanted_s)


def _has_rest_in_time(record: RequestRecord, limit_s: float | None) -> bool:
    if record.ending is not Ending.DONE:
        return False
    tpot_s = record.tpot_s
    return limit_s is None or tpot_s is None or tpot_s < limit_s


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The least value that at least this share of the requests does not exceed."""

    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one model, or of all.  A share of no requests is None."""

    requests: int
    """That count: without the warm-up."""
    done: int
    refused: int
    failed: int
    lost: int
    output_tokens: int
    """Made, whatever the end."""
    ttft: Quantiles
    tpot: Quantiles
    """Of requests of two tokens and more, and of all that did not end well."""
    latency: Quantiles
    at_once_share: float | None
    """Of first tokens under 100 ms."""
    ttft_met_share: float | None
    tpot_met_share: float | None
    met_share: float | None
    """Of both at once.  What was refused, failed, lost or late is not met."""
    goodput_per_s: float
    """Requests that met it, per second of the horizon."""
    goodput_tokens_per_s: float

    def meets(self, slo: Slo) -> bool:
        """Whether enough requests were within each limit.  Vacuously, if there were none."""
        shares = ((self.ttft_met_share, slo.ttft_share), (self.tpot_met_share, slo.tpot_share))
        return all(share is None or share >= wanted for share, wanted in shares)


@dataclass(frozen=True, slots=True)
class Summary:
    slo: Slo
    horizon_s: float
    total: Figures
    models: dict[str, Figures]
    """By name."""
    warmups: int
    """Requests that are not counted."""


def summarise(records: Iterable[RequestRecord], slo: Slo, horizon_s: float) -> Summary:
    """In one pass; per record some 30 bytes are kept."""
    if horizon_s <= 0:
        raise ValueError(f"a horizon of {horizon_s} s has no rates")
    models: dict[str, _Count] = {}
    warmups = 0
    for record in records:
        if record.is_warmup:
            warmups += 1
            continue
        count = models.get(record.model)
        if count is None:
            count = models[record.model] = _Count()
        count.add(record, slo)
    total = _Count()
    for name in sorted(models):
        total.take(models[name])
    figures = {name: models[name].figures(horizon_s) for name in sorted(models)}
    return Summary(slo, horizon_s, total.figures(horizon_s), figures, warmups)


@dataclass(slots=True)
class _Count:
    endings: dict[Ending, int] = field(default_factory=lambda: dict.fromkeys(Ending, 0))
    ttft_s: "array[float]" = field(default_factory=lambda: array("d"))
    tpot_s: "array[float]" = field(default_factory=lambda: array("d"))
    latency_s: "array[float]" = field(default_factory=lambda: array("d"))
    output_tokens: int = 0
    ttft_met: int = 0
    tpot_met: int = 0
    met: int = 0
    met_tokens: int = 0

    def add(self, record: RequestRecord, slo: Slo) -> None:
        is_done = record.ending is Ending.DONE
        ttft_s, tpot_s, latency_s = record.ttft_s, record.tpot_s, record.latency_s
        self.endings[record.ending] += 1
        self.output_tokens += record.output_tokens
        self.ttft_s.append(math.inf if ttft_s is None else ttft_s)
        self.latency_s.append(math.inf if latency_s is None or not is_done else latency_s)
        if not is_done:
            self.tpot_s.append(math.inf)
        elif tpot_s is not None:
            self.tpot_s.append(tpot_s)
        is_first_met = _has_first_in_time(record, slo.ttft_s)
        is_rest_met = _has_rest_in_time(record, slo.tpot_s)
        self.ttft_met += is_first_met
        self.tpot_met += is_rest_met
        if is_first_met and is_rest_met:
            self.met += 1
            self.met_tokens += record.output_tokens

    def take(self, other: "_Count") -> None:
        for ending, count in other.endings.items():
            self.endings[ending] += count
        self.ttft_s.extend(other.ttft_s)
        self.tpot_s.extend(other.tpot_s)
        self.latency_s.extend(other.latency_s)
        self.output_tokens += other.output_tokens
        self.ttft_met += other.ttft_met
        self.tpot_met += other.tpot_met
        self.met += other.met
        self.met_tokens += other.met_tokens

    def figures(self, horizon_s: float) -> Figures:
        requests = len(self.ttft_s)
        ttft_s = np.asarray(self.ttft_s)
        return Figures(
            requests=requests,
            done=self.endings[Ending.DONE],
            refused=self.endings[Ending.REFUSED],
            failed=self.endings[Ending.FAILED],
            lost=self.endings[Ending.LOST],
            output_tokens=self.output_tokens,
            ttft=_quantiles(self.ttft_s),
            tpot=_quantiles(self.tpot_s),
            latency=_quantiles(self.latency_s),
            at_once_share=_share(int((ttft_s < AT_ONCE_S).sum()), requests),
            ttft_met_share=_share(self.ttft_met, requests),
            tpot_met_share=_share(self.tpot_met, requests),
            met_share=_share(self.met, requests),
            goodput_per_s=self.met / horizon_s,
            goodput_tokens_per_s=self.met_tokens / horizon_s,
        )


def _share(some: int, all_of_them: int) -> float | None:
    return some / all_of_them if all_of_them else None


def _quantiles(values: "array[float]") -> Quantiles:
    """By rank, without interpolation: `p99 < limit` and `99 % are under it` then say the same."""
    if not values:
        return Quantiles(None, None, None)
    found = np.quantile(np.asarray(values), (0.5, 0.95, 0.99), method="inverted_cdf")
    p50_s, p95_s, p99_s = (None if math.isinf(one) else float(one) for one in found)
    return Quantiles(p50_s, p95_s, p99_s)
