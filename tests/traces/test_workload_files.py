import builtins
import gzip
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.domain.workloads import Arrival
from repertory.traces.columns import COLUMNS, MOST_TOKENS, WorkloadError
from repertory.traces.files import read_workload, write_workload
from repertory.traces.recipes import open_file

_GOOD: dict[str, Any] = {"at_s": 1.5, "model": "a", "prompt_tokens": 10, "output_tokens": 5}
_FULL = Arrival(2.0, "b", 20, 6, "p", 8, "batch", 1.5, "team")
_SUFFIXES = [".jsonl", ".jsonl.gz", ".parquet"]

_arrivals = st.lists(
    st.builds(
        Arrival,
        st.floats(0, 1e6, allow_nan=False),
        st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable()),
        st.integers(10, MOST_TOKENS),
        st.integers(1, MOST_TOKENS),
        st.just("x"),
        st.integers(1, 10),
        st.sampled_from(["", "batch", "2.5"]),
        st.none() | st.floats(0.001, 100),
        st.sampled_from(["", "k"]),
    ),
    min_size=1,
    max_size=20,
).map(lambda some: sorted(some, key=lambda one: one.at_s))


def _lines(path: Path, *rows: object) -> Path:
    text = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(text) + "\n")
    return path


def _read(path: Path) -> list[Arrival]:
    return list(read_workload(path))


@pytest.mark.parametrize("suffix", _SUFFIXES)
@given(arrivals=_arrivals)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, arrivals: list[Arrival]
) -> None:
    path = tmp_path_factory.mktemp("files") / f"one{suffix}"
    assert write_workload(path, arrivals) == len(arrivals)
    assert _read(path) == arrivals
    first = path.read_bytes()
    write_workload(path, arrivals)
    assert path.read_bytes() == first


def test_optional_columns_may_be_absent_or_null(tmp_path: Path) -> None:
    table = pa.table({**{name: [value] for name, value in _GOOD.items()}, "key": [None]})
    pq.write_table(table, tmp_path / "one.parquet")
    assert _read(tmp_path / "one.parquet") == [Arrival(1.5, "a", 10, 5)]
    assert _read(_lines(tmp_path / "one.jsonl", _GOOD)) == [Arrival(1.5, "a", 10, 5)]
    assert _read(_lines(tmp_path / "two.jsonl", {**_GOOD, "at_s": 2, "priority": 3})) == [
        Arrival(2.0, "a", 10, 5, priority="3")
    ]
    optional = dict.fromkeys(name for name, one in COLUMNS.items() if not one.is_needed)
    assert _read(_lines(tmp_path / "nulls.jsonl", {**_GOOD, **optional})) == [
        Arrival(1.5, "a", 10, 5)
    ]


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    path, rows = tmp_path / "damaged.parquet", 3000
    table = {**_GOOD, "at_s": [float(at) for at in range(rows)], "model": ["one", "two"] * 1500}
    kept = pa.table(
        {name: col if isinstance(col, list) else [col] * rows for name, col in table.items()}
    )
    pq.write_table(kept, path)
    whole = path.read_bytes()
    for at in range(10, len(whole), len(whole) // 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with suppress(WorkloadError):  # or what was hit is read by nobody
            assert len(_read(path)) == rows


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(WorkloadError, match=r"pipe\.jsonl: this is a pipe: write it to a file"):
        open_file(tmp_path / "pipe.jsonl")


def test_rows_behind_the_one_that_says_that_it_is_a_part_are_not_dropped(tmp_path: Path) -> None:
    path = _lines(tmp_path / "joined.jsonl", _GOOD, {"partial": "interrupted"}, _GOOD)
    with pytest.raises(WorkloadError, match=r"joined\.jsonl: after the row that says .* are more"):
        list(read_workload(path, lambda words: None))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modle": "b"}, "unknown column 'modle'; did you mean 'model'"),
        ({"latency": 5}, "unknown column 'latency'; there are at_s, model"),
        ({"model": None}, "model must be a text, not null"),
        ({"model": ""}, "model is empty"),
        ({"prompt_tokens": 0}, "prompt_tokens is 0: it must be from 1"),
        ({"prompt_tokens": -3}, "prompt_tokens is -3"),
        ({"output_tokens": 10**9}, "output_tokens is 1,000,000,000: it must be from 1 to 10,000"),
        ({"output_tokens": 2.5}, r"output_tokens must be a whole number, not 2\.5"),
        ({"output_tokens": True}, "output_tokens must be a whole number, not True"),
        ({"prompt_tokens": "many"}, "prompt_tokens must be a whole number, not 'many'"),
        ({"at_s": "now"}, "at_s must be a number, not 'now'"),
        ({"at_s": float("nan")}, "at_s is nan: it must be a finite number"),
        ({"at_s": float("inf")}, "at_s is inf: it must be a finite number"),
        ({"at_s": -1.0}, "at_s is -1.0: it must not be negative"),
        (
            {"at_s": 1.7e12},
            "at_s is 1700000000000 s, over 30 years: is it in milliseconds, or a wall clock's",
        ),
        ({"at_s": 1e300}, r"at_s is 1e\+300 s, over 30 years"),
        ({"deadline_s": 0.0}, "deadline_s is 0.0: it must be over 0"),
        ({"prefix_id": "p"}, "prefix_id and prefix_tokens go together"),
        ({"prefix_id": "p", "prefix_tokens": 11}, "prefix_tokens is 11, of a prompt of 10"),
        ({"priority": "urgent"}, "priority is 'urgent': it must be interactive, batch"),
        ({"priority": "-1"}, "priority is '-1'"),
    ],
)
def test_a_row_that_is_wrong_is_named(
    tmp_path: Path, change: Mapping[str, Any], words: str
) -> None:
    path = _lines(tmp_path / "bad.jsonl", _GOOD, {**_GOOD, **change})
    with pytest.raises(WorkloadError, match=rf"bad\.jsonl:2: {words}"):
        _read(path)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["hello"], ":1: this is no JSON object"),
        (["[1, 2]"], ":1: this is no JSON object"),
        ([_GOOD, "", _GOOD], ":2: the line is blank"),
        ([{"at_s": 1}], ":1: 'model' is missing"),
        ([_GOOD, {**_GOOD, "at_s": 1.0}], r":2: at_s is 1\.0, before the row ahead of it \(1\.5\)"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, lines: Sequence[object], words: str) -> None:
    with pytest.raises(WorkloadError, match=rf"bad\.jsonl{words}"):
        _read(_lines(tmp_path / "bad.jsonl", *lines))


@pytest.mark.parametrize("name", ["none.jsonl", "none.jsonl.gz", "none.parquet"])
def test_a_file_that_is_absent_or_empty_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(WorkloadError, match="cannot be read: No such file"):
        _read(path)
    path.write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    with pytest.raises(WorkloadError, match=r"no request in it|no whole Parquet file"):
        _read(path)


def test_a_file_that_is_broken_off_is_named(tmp_path: Path) -> None:
    arrivals = [Arrival(float(at), "a", 10, 5) for at in range(5000)]
    for suffix, words in (
        (".jsonl", r":\d+: the last line is broken off"),
        (".jsonl.gz", r":\d+: the compressed file is broken off"),
        (".parquet", "no whole Parquet file"),
    ):
        path = tmp_path / f"cut{suffix}"
        write_workload(path, arrivals)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(WorkloadError, match=words):
            _read(path)


def _parquet(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table({**{name: [one, one] for name, one in _GOOD.items()}, **columns}), path)
    return path


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"promt_tokens": [1, 2]}, "unknown column 'promt_tokens'; did you mean 'prompt_tokens'"),
        ({"model": [1, 2]}, "model must be a text, not int64"),
        ({"prompt_tokens": [1.0, 2.0]}, "prompt_tokens must be a whole number, not double"),
        ({"at_s": ["1", "2"]}, "at_s must be a number, not string"),
        ({"at_s": [2.0, 1.0]}, r"row 2: at_s is 1\.0, before"),
        ({"at_s": [1.0, float("nan")]}, "row 2: at_s is nan"),
        ({"model": ["a", None]}, "row 2: model is empty"),
        ({"output_tokens": [5, 0]}, "row 2: output_tokens is 0"),
    ],
)
def test_a_parquet_file_that_is_wrong_is_named(
    tmp_path: Path, columns: dict[str, list[Any]], words: str
) -> None:
    with pytest.raises(WorkloadError, match=rf"bad\.parquet: {words}"):
        _read(_parquet(tmp_path / "bad.parquet", **columns))


def test_rows_of_later_batches_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "long.parquet"
    rows = 70_000
    columns = {name: [value] * rows for name, value in _GOOD.items()}
    columns["output_tokens"] = [5] * (rows - 1) + [0]
    pq.write_table(pa.table(columns), path, row_group_size=1000)
    with pytest.raises(WorkloadError, match=r"row 70000: output_tokens"):
        _read(path)


def test_without_pyarrow_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _parquet(tmp_path / "one.parquet")
    real = builtins.__import__

    def refused(name: str, *rest: Any) -> ModuleType:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refused)
    with pytest.raises(WorkloadError, match=r"pip install 'repertory\[traces\]'"):
        _read(path)


def _interrupted(count: int) -> Iterator[Arrival]:
    for at in range(count):
        yield Arrival(float(at), "a", 10, 5)
    raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", _SUFFIXES)
def test_what_was_interrupted_says_that_it_is_a_part(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part{suffix}"
    with pytest.raises(KeyboardInterrupt):
        write_workload(path, _interrupted(7))
    with pytest.raises(WorkloadError, match="a part only: its making was interrupted after 7 req"):
        _read(path)
    said: list[str] = []
    assert len(list(read_workload(path, said.append))) == 7
    assert len(said) == 1


def test_a_long_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """Reading begins before the file is whole: a pipe would do."""
    path = tmp_path / "endless.jsonl"
    line = json.dumps(_GOOD).encode() + b"\n"
    path.write_bytes(line * 1000 + b"broken\n")
    assert len(list(islice(read_workload(path), 1000))) == 1000


@pytest.mark.parametrize("name", ["one.txt", "one.csv"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str) -> None:
    path = _lines(tmp_path / name, "a,b")
    with pytest.raises(WorkloadError, match=r"a workload is a|the columns must be"):
        list(open_file(path))


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/workloads.md").read_text()
    shown = page.partition("columns -->\n")[2].partition("<!-- end")[0]
    rows = [
        f"| `{one.name}` | {one.kind} | {'yes' if one.is_needed else 'no'} | {one.about} |"
        for one in COLUMNS.values()
    ]
    assert shown.strip().splitlines() == [
        "| column | kind | needed | what |",
        "|---|---|---|---|",
        *rows,
    ]
