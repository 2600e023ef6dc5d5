"""Request files for one engine: a published simulator's form, or our own workload's.

    {"request_id": "a", "input_toks": 10, "output_toks": 5, "arrival_time": 1787267980.08}
    {"at_s": 0.5, "model": "m", "prompt_tokens": 10, "output_tokens": 5}

The first arrives at 0.  Every row is served or named as the reason why none is.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repertory.domain.errors import ConfigError
from repertory.sim.vllm.engine import Asked

__all__ = ["read_requests"]

_MOST_TOKENS = 10_000_000
"""Longer than any context; a typing error."""


@dataclass(frozen=True, slots=True)
class _Form:
    at: str
    prompt: str
    output: str


_PUBLISHED = _Form("arrival_time", "input_toks", "output_toks")
_OURS = _Form("at_s", "prompt_tokens", "output_tokens")


def read_requests(path: Path) -> list[Asked]:
    """In the order of arrival.  Raises `ConfigError` with the row and the reason."""
    found: list[Asked] = []
    first_s, model = 0.0, None
    names: set[str] = set()
    for number, row in _rows(path):
        where = f"{path}:{number}"
        form = _PUBLISHED if "input_toks" in row else _OURS
        at_s = _time(row, form.at, where)
        if not found:
            first_s = at_s
            model = row.get("model")
        elif at_s - first_s < found[-1].arrival_s:
            raise ConfigError(f"{where}: {form.at}: {at_s} is before the row ahead; sort the file")
        if row.get("model") != model:
            raise ConfigError(
                f"{where}: model: {row.get('model')!r} after {model!r}; one engine serves one model"
            )
        given = row.get("request_id")
        name = f"row-{number}" if given is None else str(given)
        if name in names:
            raise ConfigError(f"{where}: request_id: {name!r} is there twice")
        names.add(name)
        prompt, output = _tokens(row, form.prompt, where), _tokens(row, form.output, where)
        found.append(Asked(name, at_s - first_s, prompt, output))
    if not found:
        raise ConfigError(f"{path}: there is no request in it")
    return found


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _row(line, f"{path}:{number}")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"{path}: this is no text file; one engine's requests are JSON lines, not packed"
        ) from None


def _row(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: this is no JSON: {error}") from None
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: this is no JSON object")
    return row


def _time(row: Mapping[str, Any], key: str, where: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: {key}: {value!r} is no time in seconds")
    if not math.isfinite(value) or value < 0:
        raise ConfigError(f"{where}: {key}: {value!r} is no time; 0 or more seconds")
    return float(value)


def _tokens(row: Mapping[str, Any], key: str, where: str) -> int:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_TOKENS:
        raise ConfigError(f"{where}: {key}: {value!r} is no number between 1 and {_MOST_TOKENS}")
    return value
