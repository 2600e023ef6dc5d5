"""Prometheus metrics: what a scrape gets.

Clients' times are measured here, at the door; everything about models comes from the status and
from the decisions.  A scrape reads the status and touches no model.
"""

from collections import Counter as Count
from collections.abc import Callable, Iterator, Mapping, Sequence

from repertory import __version__
from repertory.gateway.observe import catalogue
from repertory.gateway.observe.catalogue import Family
from repertory.gateway.observe.decisions import DecisionMetrics
from repertory.gateway.observe.exposition import TEXT_TYPE, histogram, numbers, totals
from repertory.gateway.observe.series import Counters, Histograms
from repertory.live.facade import ModelStatus, ServiceStatus

__all__ = ["METRICS_TYPE", "Metrics"]

METRICS_TYPE = TEXT_TYPE

_LOADED = ("device", "serving")
_Values = dict[tuple[str, ...], float]


class Metrics:
    """All metrics of one server.

    `unix_s` dates the last use of models; `key_names` are those of the keys there are.
    """

    def __init__(
        self,
        status: Callable[[], ServiceStatus],
        unix_s: Callable[[], float],
        key_names: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._status = status
        self._unix_s = unix_s
        self._key_names = key_names
        self.key_requests: Callable[[], Mapping[str, int]] = dict
        """Requests under way by key, from the door."""
        self.requests = Counters(catalogue.REQUESTS)
        self.prompt_tokens = Counters(catalogue.PROMPT_TOKENS)
        self.cached_tokens = Counters(catalogue.CACHED_TOKENS)
        self.output_tokens = Counters(catalogue.OUTPUT_TOKENS)
        self.ttft_s = Histograms(catalogue.TTFT)
        self.inter_token_s = Histograms(catalogue.INTER_TOKEN)
        self.queue_wait_s = Histograms(catalogue.QUEUE_WAIT)
        self._denied = Counters(catalogue.DENIED)
        self._limited = Counters(catalogue.LIMITED)
        self.decisions = DecisionMetrics(unix_s)

    def page(self) -> bytes:
        """What a scrape gets: every family of the catalogue, in its order."""
        status = self._status()
        self._forget_the_gone(status)
        gauges = self._gauges(status)
        series = {one.family.name: one for one in self._all_series()}
        lines: list[str] = []
        for family in catalogue.CATALOGUE:
            own = series.get(family.name)
            if own is None:
                lines += numbers(family, gauges[family])
            elif isinstance(own, Counters):
                lines += totals(own)
            else:
                lines += histogram(family, own.items())
        return ("\n".join(lines) + "\n").encode()

    def denied(self, reason: str) -> None:
        self._denied.of(reason).add()

    def limited(self, key: str, limit: str) -> None:
        self._limited.of(key, limit).add()

    def _forget_the_gone(self, status: ServiceStatus) -> None:
        """Models and keys that no longer exist: otherwise each name ever seen would stay."""
        models, keys = frozenset(one.name for one in status.models), self._key_names()
        for series in self._all_series():
            series.keep("model", models)
            series.keep("key", keys)
        self.decisions.keep_models(models)

    def _all_series(self) -> Sequence[Counters | Histograms]:
        moves = self.decisions
        return (
            *(self.requests, self.prompt_tokens, self.cached_tokens, self.output_tokens),
            *(self.ttft_s, self.inter_token_s, self.queue_wait_s, self._denied, self._limited),
            *(moves.transitions, moves.failures, moves.seconds, moves.predicted_s),
            *(moves.measured_s, moves.time_ratio, moves.memory_ratio, moves.error, moves.drifts),
            *(
                moves.eviction_idle_s,
                moves.worker_losses,
                moves.worker_restarts,
                moves.preemptions,
                moves.resumes,
                moves.deadlines,
            ),
        )

    def _gauges(self, status: ServiceStatus) -> dict[Family, _Values]:
        """What is read at the scrape."""
        rungs = Count(model.rung for model in status.models)
        return {
            catalogue.READY: {(): status.is_ready},
            catalogue.DRAINING: {(): status.is_draining},
            catalogue.FAULTS: {(): len(status.faults)},
            catalogue.UPTIME: {(): status.uptime_s},
            catalogue.RUNNING: {(): status.running},
            catalogue.WAITING: {(): status.waiting},
            catalogue.OUTPUT_RATE: {(): status.tokens_per_s},
            catalogue.MEMORY_BUDGET: {(): status.memory_bytes},
            catalogue.PROCESS_BYTES: {(): status.process_bytes},
            catalogue.OVERHEAD_BYTES: {(): status.overhead_bytes},
            catalogue.LOG_DROPPED: {(): status.log_dropped},
            catalogue.BUILD: {(__version__,): 1},
            catalogue.KEY_REQUESTS: {(key,): n for key, n in self.key_requests().items()},
            catalogue.MODELS: {(rung,): rungs[rung] for rung in sorted(rungs)},
            catalogue.MODEL_BYTES: dict(_bytes_of(status.models)),
            catalogue.MODEL_REQUESTS: dict(_requests_of(status.models)),
            catalogue.MODEL_FAULT: {(m.name,): m.fault is not None for m in status.models},
            catalogue.UNDER_WAY: self.decisions.under_way(),
            catalogue.LAST_USE: dict(self._last_uses(status.models)),
            catalogue.LEDGER_BYTES: dict(_ledgers_of(status)),
        }

    def _last_uses(self, models: Sequence[ModelStatus]) -> Iterator[tuple[tuple[str, ...], float]]:
        """A model that runs is being used now."""
        known = self.decisions.last_use_unix_s
        for model in models:
            if model.running:
                yield (model.name,), self._unix_s()
            elif model.rung in _LOADED and model.name in known:
                yield (model.name,), known[model.name]


def _bytes_of(models: Sequence[ModelStatus]) -> Iterator[tuple[tuple[str, ...], float]]:
    for model in models:
        yield (model.name, "predicted"), model.predicted_bytes
        if model.measured_bytes is not None:
            yield (model.name, "measured"), model.measured_bytes


def _requests_of(models: Sequence[ModelStatus]) -> Iterator[tuple[tuple[str, ...], float]]:
    for model in models:
        yield (model.name, "running"), model.running
        yield (model.name, "waiting"), model.waiting


def _ledgers_of(status: ServiceStatus) -> Iterator[tuple[tuple[str, ...], float]]:
    for device in status.devices:
        name = f"{device.node_id}/{device.id}"
        yield (name, "budget"), device.budget_bytes
        yield (name, "charged"), device.charged_bytes
        yield (name, "peak_charged"), device.peak_charged_bytes
