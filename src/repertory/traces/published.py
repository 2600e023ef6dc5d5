"""Traces that others published: Azure 2023 and 2024, Mooncake.

Azure 2023 and 2024: CC-BY-4.0 (Splitwise, DynamoLLM).  Mooncake: Apache-2.0.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from repertory.domain.workloads import Arrival
from repertory.traces.columns import WorkloadError, range_wrong
from repertory.traces.files import lines_of
from repertory.traces.streams import DAY_S, Quantile, RateCurve

__all__ = [
    "AZURE_2023",
    "WeekOfService",
    "azure_2023_files",
    "begin_of",
    "read_azure_2023",
    "read_azure_2024",
    "read_mooncake",
    "sniffed",
]

_AZURE_2023_HEAD = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
AZURE_2023 = {
    "code": "AzureLLMInferenceTrace_code.csv",
    "conv": "AzureLLMInferenceTrace_conv.csv",
}
"""The file of each service."""
MOONCAKE_BLOCK_TOKENS = 512
_TEN_MINUTES_S = 600.0


def azure_2023_files(folder: Path) -> dict[str, Path]:
    return {service: folder / "azure2023" / name for service, name in AZURE_2023.items()}


def read_azure_2023(
    path: Path, model: str = "", begin: datetime | None = None
) -> Iterator[Arrival]:
    """Row by row; `begin`: of the workload, so that two files keep one clock (default: its own)."""
    name = model or path.stem
    before_s = 0.0
    for number, row in _csv_rows(path, _AZURE_2023_HEAD):
        where = f"{path}:{number}"
        try:
            at, tail = _instant(row["TIMESTAMP"])
            prompt, output = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (TypeError, ValueError) as error:
            raise WorkloadError(f"{where}: this is no row of Azure's trace: {error}") from None
        begin = at if begin is None else begin
        arrival = Arrival(round((at - begin).total_seconds() + tail, 7), name, prompt, output)
        wrong = range_wrong(arrival)
        if wrong is None and arrival.at_s < before_s:
            wrong = f"{row['TIMESTAMP']} is before the row ahead of it: sort the rows by TIMESTAMP"
        if wrong is not None:
            raise WorkloadError(f"{where}: {wrong}")
        before_s = arrival.at_s
        yield arrival


def begin_of(path: Path) -> datetime:
    """When the first request of an Azure 2023 file came, to the second below."""
    _, row = next(_csv_rows(path, _AZURE_2023_HEAD))
    return _instant(row["TIMESTAMP"])[0].replace(microsecond=0)


def _instant(text: str) -> tuple[datetime, float]:
    """Seven decimals are one more than a datetime holds: the rest is seconds."""
    whole, _, decimals = text.partition(".")
    digits = decimals.ljust(7, "0")
    return datetime.fromisoformat(f"{whole}.{digits[:6]}"), int(digits[6:7]) * 1e-7


def _csv_rows(path: Path, head: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Numbered as editors do."""
    try:
        file = path.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        rows = csv.DictReader(file)
        if rows.fieldnames != head:
            raise WorkloadError(f"{path}:1: the columns must be {','.join(head)}")
        for row in rows:
            yield rows.line_num, row
        if rows.line_num < 2:
            raise WorkloadError(f"{path}: there is no request in it")


def sniffed(path: Path) -> str:
    """Whose format a file has: azure, mooncake, or ours, whose reader says what is wrong."""
    if path.is_fifo():  # what was looked at would be gone, and who opens it again waits for ever
        raise WorkloadError(f"{path}: this is a pipe: write it to a file first, and name that")
    if path.suffix == ".csv":
        return "azure"
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        _, line = next(lines_of(path), (1, b""))
        return "mooncake" if b'"hash_ids"' in line else "ours"
    if path.suffix == ".parquet":
        return "ours"
    raise WorkloadError(f"{path}: a workload is a .jsonl, .jsonl.gz or .parquet; Azure's a .csv")


@dataclass(frozen=True, slots=True, eq=False)
class WeekOfService:
    """Of Azure 2024, read off published figures: its rate, and the lengths of its requests."""

    curve: RateCurve
    """Seven days, the first of them a Monday."""
    prompt: Quantile
    output: Quantile


def read_azure_2024(folder: Path, service: str) -> WeekOfService:
    """`code` or `conv`.

    Answers under the median could not be read off the figure: there the 2023 trace of the same
    service, scaled so that the medians meet.
    """
    place = folder / "azure2024_digitized"
    head = ["t_s", "req_per_min_mid", "req_per_min_low", "req_per_min_high", "utc"]
    path = place / f"azure2024_{service}_10min.csv"
    rows = [row for _, row in _csv_rows(path, head)]
    rates = np.array([float(row["req_per_min_mid"]) / 60 for row in rows])
    weekday = datetime.fromisoformat(rows[0]["utc"]).weekday()
    curve = RateCurve(_TEN_MINUTES_S, rates, is_linear=True).later(weekday * DAY_S)
    path = place / "azure2024_token_quantiles.csv"
    table = [row for _, row in _csv_rows(path, ["service", "field", "quantile", "tokens"])]
    return WeekOfService(
        curve,
        _quantiles(table, service, "input"),
        _mended(_quantiles(table, service, "output"), folder, service),
    )


def _quantiles(table: list[dict[str, str]], service: str, field: str) -> Quantile:
    """Past the last that was published the curve is flat: no longest request was."""
    chosen = [row for row in table if row["service"] == service and row["field"] == field]
    levels = np.array([float(row["quantile"]) for row in chosen])
    return Quantile(levels, np.array([float(row["tokens"]) for row in chosen]))


def _mended(drawn: Quantile, folder: Path, service: str) -> Quantile:
    upper = drawn.levels >= 0.5
    median = float(drawn.tokens[upper][0])
    seen = [one.output_tokens for one in read_azure_2023(azure_2023_files(folder)[service])]
    levels = np.arange(0.0, 0.5, 0.01)
    lower = np.quantile(np.array(seen), levels) * (median / float(np.median(seen)))
    return Quantile(
        np.concatenate((levels, drawn.levels[upper])),
        np.concatenate((lower, drawn.tokens[upper])),
    )


class _MooncakeRow(msgspec.Struct):
    timestamp: int
    input_length: int
    output_length: int
    hash_ids: list[int]


def read_mooncake(path: Path, model: str = "mooncake") -> Iterator[Arrival]:
    """Row by row, after one pass over the hashes.

    A block's hash stands for it and all blocks before it.  A request's prefix is its longest run of
    leading blocks that another request has too; its `prefix_id` is the hash of the last of them.
    One name cannot tell a tree: who keeps prefixes by it finds 63 % (synthetic: 93 %) of the tokens
    that a cache of blocks would.
    """
    seen: set[int] = set()
    shared: set[int] = set()
    for _, row in _mooncake_rows(path):
        blocks = set(row.hash_ids)
        shared |= blocks & seen
        seen |= blocks
    if not seen:
        raise WorkloadError(f"{path}: there is no request in it")
    before_s = 0.0
    for number, row in _mooncake_rows(path):
        arrival = _of_mooncake(row, model, shared)
        wrong = range_wrong(arrival)
        if wrong is None and arrival.at_s < before_s:
            wrong = f"timestamp {row.timestamp} is before the row ahead of it: sort the rows by it"
        if wrong is not None:
            raise WorkloadError(f"{path}:{number}: {wrong}")
        before_s = arrival.at_s
        yield arrival


def _mooncake_rows(path: Path) -> Iterator[tuple[int, _MooncakeRow]]:
    decoder = msgspec.json.Decoder(_MooncakeRow)
    for number, line in lines_of(path):
        try:
            yield number, decoder.decode(line)
        except msgspec.DecodeError as error:
            raise WorkloadError(
                f"{path}:{number}: this is no row of Mooncake's trace: {error}"
            ) from None


def _of_mooncake(row: _MooncakeRow, model: str, shared: set[int]) -> Arrival:
    count = len(row.hash_ids)
    known = next((at for at, block in enumerate(row.hash_ids) if block not in shared), count)
    # The last block may be a part of one; a prefix leaves a token to compute.
    tokens = min(known * MOONCAKE_BLOCK_TOKENS, row.input_length - 1)
    fields: dict[str, Any] = {}
    if tokens > 0:
        fields = {"prefix_id": str(row.hash_ids[known - 1]), "prefix_tokens": tokens}
    return Arrival(row.timestamp / 1000, model, row.input_length, row.output_length, **fields)
