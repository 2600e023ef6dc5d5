"""Every metric there is: its name, kind, labels, buckets, and what it says.

The page of a scrape, `docs/observability/metrics.md` and the Grafana board are all made from this
table.  Names follow Prometheus: the unit is a suffix, counters end in `_total`.
"""

from dataclasses import dataclass
from enum import Enum

__all__ = ["CATALOGUE", "PREFIX", "Family", "Kind", "metrics_page"]

PREFIX = "repertory_"


class Kind(Enum):
    """As Prometheus calls them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """All series of one name."""

    name: str
    """With the prefix, without `_total`."""
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without infinity."""

    @property
    def series(self) -> str:
        """The name that a query uses; a histogram's is completed by `_bucket`, `_sum`, `_count`."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


_TTFT_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.5, 5.0, 10.0, 20.0, 40.0, 80.0, 120.0),
)
"""From the first token of a small warm model (about 5 ms) to the longest wait that is allowed."""
_STEP_S = (
    *(0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06),
    *(0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""From a step of a 50M alone (1.8 ms) to a stall that a reader would take for the end."""
_MOVE_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 180.0),
)
"""From freeing a context to loading 100 GB from a slow disk."""
_IDLE_S = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
_RATIO = (0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
"""Measured over predicted: 1 is a perfect prediction."""
_ERROR = (0.01, 0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)
"""The bars of `make bench-costs` (5, 8, 10 and 15 %) are among them."""

_MODEL_KEY = ("model", "key")


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(PREFIX + name, Kind.COUNTER, text, labels)


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(PREFIX + name, Kind.GAUGE, text, labels)


def _histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Family:
    return Family(PREFIX + name, Kind.HISTOGRAM, text, labels, bounds)


REQUESTS = _counter("requests", "Requests by outcome", *_MODEL_KEY, "outcome")
PROMPT_TOKENS = _counter("prompt_tokens", "Tokens in", *_MODEL_KEY)
CACHED_TOKENS = _counter(
    "cached_prompt_tokens", "Tokens in whose computation was reused", *_MODEL_KEY
)
OUTPUT_TOKENS = _counter("output_tokens", "Tokens out", *_MODEL_KEY)
TTFT = _histogram(
    "time_to_first_token_seconds", "From the request to its first token", _TTFT_S, *_MODEL_KEY
)
INTER_TOKEN = _histogram(
    "inter_token_seconds", "Between two parts of one answer", _STEP_S, *_MODEL_KEY
)
QUEUE_WAIT = _histogram(
    "queue_wait_seconds", "From admission to dispatch, loads included", _TTFT_S, *_MODEL_KEY
)
DENIED = _counter("denied_requests", "Turned away before the application, by reason", "reason")
LIMITED = _counter("limited_requests", "Over a key's limit: rate or concurrent", "key", "limit")
KEY_REQUESTS = _gauge("key_requests", "Requests of a key under way", "key")

TRANSITIONS = _counter(
    "transitions",
    "Moves on the ladder by reason: edge load brings up, unload and drop evict",
    *("model", "edge", "reason"),
)
TRANSITION_FAILURES = _counter("transition_failures", "Moves that failed", "model", "edge")
UNDER_WAY = _gauge(
    "transition_start_timestamp_seconds",
    "When a move that is under way began (Unix); a stuck one grows old",
    *("model", "edge"),
)
TRANSITION_S = _histogram("transition_seconds", "Measured duration of moves", _MOVE_S, "edge")
PREDICTED_S = _counter("predicted_seconds", "Predicted duration of ended moves", "edge")
MEASURED_S = _counter("measured_seconds", "Measured duration of the same moves", "edge")
TIME_RATIO = _histogram(
    "prediction_time_ratio", "Measured over predicted seconds of a move", _RATIO, "edge"
)
MEMORY_RATIO = _histogram(
    "prediction_memory_ratio", "Measured over predicted bytes of a move", _RATIO, "edge"
)
PREDICTION_ERROR = _histogram(
    "prediction_error_ratio",
    "Distance of a prediction from what was measured, over what was measured, by what it was about",
    _ERROR,
    "kind",
)
COST_DRIFTS = _counter(
    "cost_drifts", "Costs that are no more what they were measured or learned to be", "model"
)
EVICTION_IDLE_S = _histogram(
    "eviction_idle_seconds", "How long a victim had not been used", _IDLE_S, "reason"
)
PREEMPTIONS = _counter(
    "preemptions", "Generations that were stopped for others, to go on later", "model"
)
DEADLINES = _counter(
    "deadlines",
    "Requests with a deadline for their first token: met, missed, or refused at once",
    *("model", "key", "outcome"),
)
RESUMES = _counter("resumes", "Generations that went on after they were stopped", "model")
LAST_USE = _gauge(
    "model_last_use_timestamp_seconds",
    "When a loaded model was last used (Unix); time() minus it is its LRU age",
    "model",
)

MODELS = _gauge("models", "Models by rung", "rung")
MODEL_BYTES = _gauge("model_bytes", "Memory of a replica, predicted and measured", "model", "kind")
MODEL_REQUESTS = _gauge(
    "model_requests", "Requests of a model, running and waiting", "model", "state"
)
MODEL_FAULT = _gauge("model_fault", "1 while a model cannot be served", "model")
LEDGER_BYTES = _gauge("ledger_bytes", "A device's ledger", "device", "kind")
RUNNING = _gauge("running_requests", "Requests being answered")
WAITING = _gauge("waiting_requests", "Requests waiting for memory or a slot")
OUTPUT_RATE = _gauge("output_tokens_per_second", "Over the last seconds")
MEMORY_BUDGET = _gauge("memory_budget_bytes", "The operator's budget")
PROCESS_BYTES = _gauge("process_bytes", "PSS of all processes, sampled last")
OVERHEAD_BYTES = _gauge("overhead_bytes", "Processes without replicas")

READY = _gauge("ready", "1 if requests can be served")
DRAINING = _gauge("draining", "1 if no new requests are taken")
FAULTS = _gauge("faults", "Reasons for not being healthy")
UPTIME = _gauge("uptime_seconds", "Since the start")
WORKER_LOSSES = _counter("worker_losses", "Workers that died or were killed", "node")
WORKER_RESTARTS = _counter("worker_restarts", "Workers that came up after a loss", "node")
LOG_DROPPED = _counter(
    "decision_log_dropped_lines", "Decisions that could not be written to the log"
)
BUILD = _gauge("build_info", "1, with the program's version", "version")

CATALOGUE: tuple[Family, ...] = (
    *(REQUESTS, PROMPT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS, TTFT, INTER_TOKEN, QUEUE_WAIT),
    *(DENIED, LIMITED, KEY_REQUESTS),
    *(TRANSITIONS, TRANSITION_FAILURES, UNDER_WAY, TRANSITION_S, PREDICTED_S, MEASURED_S),
    *(TIME_RATIO, MEMORY_RATIO, PREDICTION_ERROR, COST_DRIFTS, EVICTION_IDLE_S, PREEMPTIONS),
    *(DEADLINES, RESUMES, LAST_USE),
    *(MODELS, MODEL_BYTES, MODEL_REQUESTS, MODEL_FAULT, LEDGER_BYTES, RUNNING, WAITING),
    *(OUTPUT_RATE, MEMORY_BUDGET, PROCESS_BYTES, OVERHEAD_BYTES),
    *(READY, DRAINING, FAULTS, UPTIME, WORKER_LOSSES, WORKER_RESTARTS, LOG_DROPPED, BUILD),
)
"""In the order of the page."""

_HEAD = """\
# Metrics

Written by `make docs` from `src/repertory/gateway/observe/catalogue.py`; a test compares it with a
scrape. `GET /metrics` answers in Prometheus' text format; a scrape reads the server's status and
touches no model. Once there are keys it needs one that may use all models
([authorisation](../authorisation.md)):

```yaml
scrape_configs:
  - job_name: repertory
    authorization: {credentials_file: repertory.key}
    static_configs: [{targets: ["127.0.0.1:7373"]}]
```

[grafana.json](grafana.json) is a board of them: in Grafana, Dashboards, New, Import.

`key` is the name of the API key, empty without one. Series of a model or a key that is gone leave
the page at the next scrape, and a counter that comes back starts at zero. Times of requests have
the resolution of the event loop's clock, 1 ms.

Reasons of `repertory_denied_requests_total`: the key (`missing`, `wrong`), what it may not ask for
(`admin`; `reader`: the metrics), a web page from elsewhere while nobody needs a key (`origin`,
`host`), or HTTP itself (`malformed`, `head`: too large, `slow`, `connections`: too many).

Reasons of `repertory_transitions_total`: `demand` (requests wait), `operator` (a wish, a pin, a
preload), `prewarm` (expected demand); and for moves down `room` (for another model), `slots`
(reopens with longer ones), `placement` (leaves for a place with more room), `budget` (more memory
was measured than allowed), `ttl`, `operator`, `replaced` and `removed` (the file).

Kinds of `repertory_prediction_error_ratio`: a move's seconds by its edge (`load`, `activate`,
`resize`, `deactivate`, `unload`, `drop`, `stage`), the bytes that moves read back (`memory`), a
prompt (`prefill`) and the steps after it (`decode`) of generations that nobody interrupted, a
stopped one's way back to its next token (`resume`), copies of KV between a slot and main memory
(`kv`), and what stopping cost in all (`penalty`: the switch there, the switch back and the longest
resume).
"""


def metrics_page() -> str:
    rows = [
        f"| `{one.series}` | {one.kind.value} | {', '.join(f'`{label}`' for label in one.labels)} "
        f"| {one.text} |"
        for one in CATALOGUE
    ]
    return "\n".join([_HEAD, "| name | type | labels | what |", "|---|---|---|---|", *rows, ""])
