"""The workload format: its columns, and what may stand in them.

`docs/workloads.md` shows this table.  Whatever is wrong is an error with its file, row and reason;
nothing is dropped or mended in silence.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from repertory.domain.errors import ConfigError
from repertory.domain.requests import PRIORITIES
from repertory.domain.workloads import Arrival

__all__ = [
    "COLUMNS",
    "LONGEST_S",
    "MOST_TOKENS",
    "PARTIAL",
    "Column",
    "WorkloadError",
    "arrival_of",
    "check_names",
    "in_order",
    "range_wrong",
]

MOST_TOKENS = 10_000_000
"""The longest context that any published model claims (Llama 4 Scout)."""
LONGEST_S = 1e9
"""Some 30 years.  Wall-clock seconds and milliseconds are over it."""
PARTIAL = "partial"
"""The only key of the last line of a file whose making was interrupted."""


class WorkloadError(ConfigError):
    """The file's fault: which file, which row, what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    kind: str
    """In words: number, whole number, text."""
    about: str
    is_needed: bool = False


COLUMNS = {
    one.name: one
    for one in (
        Column("at_s", "number", "seconds since the beginning, never before the row ahead", True),
        Column("model", "text", "the name that the request asks for", True),
        Column("prompt_tokens", "whole number", f"1 to {MOST_TOKENS:,}", True),
        Column("output_tokens", "whole number", f"what it comes to, 1 to {MOST_TOKENS:,}", True),
        Column("prefix_id", "text", "requests of one model with the same one begin alike"),
        Column("prefix_tokens", "whole number", "for how many tokens; at most `prompt_tokens`"),
        Column(
            "priority", "text", f"{', '.join(PRIORITIES)} or a number over 0; else the model's own"
        ),
        Column("deadline_s", "number", "seconds from `at_s` within which a first token is wanted"),
        Column("key", "text", "whose work it counts as"),
    )
}
"""In the order in which they are written."""


def check_names(names: Iterable[str]) -> str | None:
    """What is wrong with these columns; None: nothing."""
    found = list(names)
    for name in found:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COLUMNS)}"
            return f"unknown column {name!r}; {hint}"
    for one in COLUMNS.values():
        if one.is_needed and one.name not in found:
            return f"{one.name!r} is missing: a {one.kind}, {one.about}"
    return None


def arrival_of(row: Mapping[str, Any]) -> Arrival | str:
    """Of decoded JSON, whatever it holds; or what is wrong with it."""
    wrong = check_names(row)
    if wrong is not None:
        return wrong
    row = {name: value for name, value in row.items() if value is not None or _is_needed(name)}
    priority = row.get("priority", "")
    if isinstance(priority, (int, float)) and not isinstance(priority, bool):
        row = {**row, "priority": repr(priority)}
    for name, value in row.items():
        wrong = _kind_wrong(COLUMNS[name], value)
        if wrong is not None:
            return f"{name} {wrong}"
    arrival = Arrival(**{**row, "at_s": float(row["at_s"])})
    wrong = range_wrong(arrival)
    return arrival if wrong is None else wrong


def _is_needed(name: str) -> bool:
    """Where it is not, null is the same as its absence: what writes tables writes nulls."""
    return COLUMNS[name].is_needed


def _kind_wrong(column: Column, value: object) -> str | None:
    match column.kind:
        case "text":
            is_right = isinstance(value, str)
        case "whole number":
            is_right = isinstance(value, int) and not isinstance(value, bool)
        case _:
            is_right = isinstance(value, (int, float)) and not isinstance(value, bool)
    return None if is_right else f"must be a {column.kind}, not {_shown(value)}"


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def range_wrong(arrival: Arrival) -> str | None:
    """What is out of its range in a row whose kinds are right."""
    checks = (
        _time_wrong("at_s", arrival.at_s, least_s=0.0),
        None if arrival.model else "model is empty",
        _tokens_wrong("prompt_tokens", arrival.prompt_tokens),
        _tokens_wrong("output_tokens", arrival.output_tokens),
        _prefix_wrong(arrival),
        _priority_wrong(arrival.priority),
        None
        if arrival.deadline_s is None
        else _time_wrong("deadline_s", arrival.deadline_s, least_s=1e-9),
    )
    return next((wrong for wrong in checks if wrong is not None), None)


def _time_wrong(name: str, value_s: float, least_s: float) -> str | None:
    if not math.isfinite(value_s):
        return f"{name} is {value_s}: it must be a finite number of seconds"
    if value_s < least_s:
        return f"{name} is {value_s}: it must {'not be negative' if not least_s else 'be over 0'}"
    if value_s > LONGEST_S:
        return (
            f"{name} is {value_s:.15g} s, over 30 years: is it in milliseconds, or a wall clock's?"
            " Seconds since the beginning are wanted"
        )
    return None


def _tokens_wrong(name: str, tokens: int) -> str | None:
    if 1 <= tokens <= MOST_TOKENS:
        return None
    return f"{name} is {tokens:,}: it must be from 1 to {MOST_TOKENS:,}"


def _prefix_wrong(arrival: Arrival) -> str | None:
    tokens = arrival.prefix_tokens
    if bool(arrival.prefix_id) != bool(tokens):
        return "prefix_id and prefix_tokens go together: one of them is missing or 0"
    if not 0 <= tokens <= arrival.prompt_tokens:
        return f"prefix_tokens is {tokens:,}, of a prompt of {arrival.prompt_tokens:,}"
    return None


def _priority_wrong(priority: str) -> str | None:
    if not priority or priority in PRIORITIES:
        return None
    try:
        weight = float(priority)
    except ValueError:
        weight = math.nan
    if 0 < weight < math.inf:
        return None
    return f"priority is {priority!r}: it must be {', '.join(PRIORITIES)} or a number over 0"


def in_order(at_s: float, before_s: float) -> str | None:
    """What is wrong with a row at `at_s` after one at `before_s`."""
    if at_s >= before_s:
        return None
    return f"at_s is {at_s}, before the row ahead of it ({before_s}): sort the rows by at_s"
