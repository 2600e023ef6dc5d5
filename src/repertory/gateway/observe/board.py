"""The Grafana board, written from the catalogue: a panel cannot name a metric that is not there.

The names in a panel's queries come from `catalogue` by attribute; a test reads them back.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from repertory.gateway.observe import catalogue as metric
from repertory.gateway.observe.catalogue import Family

__all__ = ["ROWS", "Panel", "Query", "board_page"]

_SCHEMA = 41
"""Grafana 12's; later ones migrate it when they open it."""
_WIDTH, _HEIGHT = 24, 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_BY = 'model=~"$model",key=~"$key"'
_MODEL = 'model=~"$model"'
_OVER = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Query:
    """A line, or a set of lines, of a panel."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph."""

    title: str
    unit: str
    """As Grafana names it: s, bytes, reqps, short, percentunit."""
    queries: tuple[Query, ...]
    note: str = ""


def _rate(family: Family, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({family.series}{{{where}}}[{_OVER}]))"


def _quantile(share: float, family: Family, by: str = "model", where: str = _BY) -> str:
    inner = f"sum by (le, {by}) (rate({family.series}_bucket{{{where}}}[{_OVER}]))"
    return f"histogram_quantile({share}, {inner})"


def _spread(title: str, family: Family, by: str = "model", where: str = _BY) -> Panel:
    queries = tuple(
        Query(_quantile(share, family, by, where), f"{{{{{by}}}}} p{share * 100:.0f}")
        for share in (0.5, 0.99)
    )
    return Panel(title, "s", queries, family.text)


_BAD = f'{_BY},outcome!="done"'
_DOWN = f'{_MODEL},edge=~"unload|drop|deactivate"'

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Requests",
        (
            Panel(
                "Requests by outcome",
                "reqps",
                (Query(_rate(metric.REQUESTS, "outcome", _BY), "{{outcome}}"),),
            ),
            Panel(
                "Share not answered",
                "percentunit",
                (
                    Query(
                        f"({_rate(metric.REQUESTS, 'model', _BAD)}) / "
                        f"({_rate(metric.REQUESTS, 'model', _BY)})",
                        "{{model}}",
                    ),
                ),
            ),
            _spread("Time to first token", metric.TTFT),
            _spread("Between tokens", metric.INTER_TOKEN),
            Panel(
                "Tokens",
                "short",
                (
                    Query(_rate(metric.OUTPUT_TOKENS, "model", _BY), "{{model}} out"),
                    Query(_rate(metric.PROMPT_TOKENS, "model", _BY), "{{model}} in"),
                    Query(_rate(metric.CACHED_TOKENS, "model", _BY), "{{model}} in, reused"),
                ),
            ),
        ),
    ),
    (
        "Queue and fairness",
        (
            _spread("Queue wait by key", metric.QUEUE_WAIT, "key"),
            Panel(
                "Requests waiting and running",
                "short",
                (
                    Query(
                        f"{metric.MODEL_REQUESTS.series}{{{_MODEL}}}",
                        "{{model}} {{state}}",
                    ),
                ),
            ),
            Panel(
                "Output tokens by key",
                "short",
                (Query(_rate(metric.OUTPUT_TOKENS, "key", _BY), "{{key}}"),),
                "The share of the work that each key gets.",
            ),
            Panel(
                "Requests under way by key",
                "short",
                (Query(f'{metric.KEY_REQUESTS.series}{{key=~"$key"}}', "{{key}}"),),
            ),
            Panel(
                "Turned away",
                "reqps",
                (
                    Query(_rate(metric.LIMITED, "key, limit", 'key=~"$key"'), "{{key}} {{limit}}"),
                    Query(_rate(metric.DENIED, "reason"), "{{reason}}"),
                ),
            ),
        ),
    ),
    (
        "Models and memory",
        (
            Panel("Models by rung", "short", (Query(metric.MODELS.series, "{{rung}}"),)),
            Panel(
                "Memory of models",
                "bytes",
                (Query(f"{metric.MODEL_BYTES.series}{{{_MODEL}}}", "{{model}} {{kind}}"),),
                "Predicted is what the ledger reserved, measured what was read back.",
            ),
            Panel("Ledgers", "bytes", (Query(metric.LEDGER_BYTES.series, "{{device}} {{kind}}"),)),
            Panel(
                "Processes and budget",
                "bytes",
                (
                    Query(metric.PROCESS_BYTES.series, "processes"),
                    Query(metric.OVERHEAD_BYTES.series, "without replicas"),
                    Query(metric.MEMORY_BUDGET.series, "budget"),
                ),
            ),
            Panel(
                "Since last use",
                "s",
                (Query(f"time() - {metric.LAST_USE.series}{{{_MODEL}}}", "{{model}}"),),
                "The LRU age of loaded models.",
            ),
        ),
    ),
    (
        "Moves",
        (
            Panel(
                "Loads by reason",
                "short",
                (
                    Query(
                        f"sum by (reason) (increase({metric.TRANSITIONS.series}"
                        f'{{{_MODEL},edge="load"}}[{_OVER}]))',
                        "{{reason}}",
                    ),
                ),
            ),
            Panel(
                "Moves down by reason",
                "short",
                (
                    Query(
                        f"sum by (edge, reason) (increase({metric.TRANSITIONS.series}"
                        f"{{{_DOWN}}}[{_OVER}]))",
                        "{{edge}} {{reason}}",
                    ),
                ),
            ),
            _spread("How long victims had been idle", metric.EVICTION_IDLE_S, "reason", ""),
            Panel(
                "Seconds, predicted and measured",
                "s",
                (
                    Query(_rate(metric.PREDICTED_S, "edge"), "{{edge}} predicted"),
                    Query(_rate(metric.MEASURED_S, "edge"), "{{edge}} measured"),
                ),
                "Seconds of moves per second.",
            ),
            Panel(
                "Measured over predicted, median",
                "percentunit",
                (
                    Query(_quantile(0.5, metric.TIME_RATIO, "edge", ""), "{{edge}} seconds"),
                    Query(_quantile(0.5, metric.MEMORY_RATIO, "edge", ""), "{{edge}} bytes"),
                ),
            ),
            Panel(
                "Prediction error by kind",
                "percentunit",
                tuple(
                    Query(
                        _quantile(share, metric.PREDICTION_ERROR, "kind", ""),
                        f"{{{{kind}}}} p{share * 100:.0f}",
                    )
                    for share in (0.5, 0.9)
                ),
                metric.PREDICTION_ERROR.text,
            ),
            _spread("Duration of moves", metric.TRANSITION_S, "edge", ""),
        ),
    ),
    (
        "Health",
        (
            Panel(
                "Ready, draining, faults",
                "short",
                (
                    Query(metric.READY.series, "ready"),
                    Query(metric.DRAINING.series, "draining"),
                    Query(metric.FAULTS.series, "faults"),
                    Query(f"{metric.MODEL_FAULT.series} > 0", "{{model}} cannot be served"),
                ),
            ),
            Panel(
                "Workers, failed moves, preemptions",
                "short",
                (
                    Query(f"increase({metric.WORKER_LOSSES.series}[{_OVER}])", "lost {{node}}"),
                    Query(f"increase({metric.WORKER_RESTARTS.series}[{_OVER}])", "back {{node}}"),
                    Query(
                        f"sum by (model) (increase({metric.PREEMPTIONS.series}[{_OVER}]))",
                        "{{model}} stopped for others",
                    ),
                    Query(
                        f"sum by (outcome) (increase({metric.DEADLINES.series}[{_OVER}]))",
                        "deadlines {{outcome}}",
                    ),
                    Query(
                        f"sum by (model) (increase({metric.RESUMES.series}[{_OVER}]))",
                        "{{model}} went on",
                    ),
                    Query(
                        f"sum by (edge) (increase({metric.TRANSITION_FAILURES.series}[{_OVER}]))",
                        "{{edge}} failed",
                    ),
                    Query(
                        f"sum by (model) (increase({metric.COST_DRIFTS.series}[{_OVER}]))",
                        "{{model}} costs drifted",
                    ),
                ),
            ),
            Panel(
                "Age of moves under way",
                "s",
                (
                    Query(
                        f"time() - {metric.UNDER_WAY.series}{{{_MODEL}}}",
                        "{{model}} {{edge}}",
                    ),
                ),
                "One that does not end is stuck.",
            ),
            Panel(
                "Decisions that the log lost",
                "short",
                (Query(f"increase({metric.LOG_DROPPED.series}[{_OVER}])", "lines"),),
            ),
            Panel(
                "Load of the server",
                "short",
                (
                    Query(metric.RUNNING.series, "running"),
                    Query(metric.WAITING.series, "waiting"),
                    Query(metric.OUTPUT_RATE.series, "tokens/s"),
                ),
            ),
            Panel("Up since", "s", (Query(metric.UPTIME.series, "uptime"),)),
            Panel("Version", "short", (Query(metric.BUILD.series, "{{version}}"),)),
        ),
    ),
)
"""From what clients feel to what the machine does."""


def board_page() -> str:
    return json.dumps(_board(), indent=1) + "\n"


def _board() -> dict[str, Any]:  # Any: Grafana's own JSON
    return {
        "uid": "repertory",
        "title": "Repertory",
        "tags": ["repertory", "llm"],
        "schemaVersion": _SCHEMA,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "refresh": 1,
    }
    for label, family in (("model", metric.MODEL_REQUESTS), ("key", metric.REQUESTS)):
        query = f"label_values({family.series}, {label})"
        yield {
            "name": label,
            "label": label.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "definition": query,
            "query": {"query": query, "refId": "StandardVariableQuery"},
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "refresh": 2,
            "sort": 1,
            "hide": 0,
        }


def _panels() -> Iterator[dict[str, Any]]:
    """Three beside each other; the last ones of a row share what is left."""
    number, top = 0, 0
    for title, panels in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": top},
            "panels": [],
        }
        top += 1
        for first in range(0, len(panels), 3):
            line = panels[first : first + 3]
            width = _WIDTH // len(line)
            for at, panel in enumerate(line):
                number += 1
                place = {"h": _HEIGHT, "w": width, "x": at * width, "y": top}
                yield _panel(number, panel, place)
            top += _HEIGHT


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": list(_targets(panel.queries)),
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {"drawStyle": "line", "fillOpacity": 10, "showPoints": "never"},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _targets(queries: Sequence[Query]) -> Iterator[dict[str, Any]]:
    for at, query in enumerate(queries):
        yield {
            "refId": chr(ord("A") + at),
            "datasource": _SOURCE,
            "expr": query.expression,
            "legendFormat": query.legend,
            "editorMode": "code",
            "range": True,
        }
