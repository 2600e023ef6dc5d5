"""A profile as rows, as a page, and as pictures."""

from dataclasses import replace
from pathlib import Path

import pytest

from repertory.domain.ladder import Rung
from repertory.domain.readings import (
    CycleReading,
    DeviceReadings,
    Identity,
    KvReading,
    LinkReading,
    LoadReading,
    OpenReading,
    Readings,
    StepReading,
)
from repertory.domain.specs import WeightsForm
from repertory.reports.curves import draw
from repertory.reports.profiles import COLUMNS, overhead_s, page_of, rows_of

PLAIN = WeightsForm.PLAIN
CYCLE = CycleReading(
    claimant="writer",
    claimant_bytes=2**30,
    point_tokens=500,
    stays=False,
    stop_s=(0.01,),
    out_s=(0.02,),
    unload_s=(0.03,),
    switch_s=(0.1, 0.1, 0.4),
    release_s=(0.04,),
    load_s=(0.2,),
    in_s=(0.05,),
    first_token_s=(0.06,),
    reused_tokens=499,
)


def step(decode: bool, tokens: int, seconds: float, **changes: object) -> StepReading:
    one = StepReading(decode, PLAIN, None, 1.0, 1, tokens, 0, (seconds, seconds, seconds))
    return replace(one, **changes)  # type: ignore[arg-type]  # test data


DEVICE = DeviceReadings(
    device="gpu0",
    backend="cuda",
    cores=0,
    loads=(
        LoadReading(PLAIN, Rung.HOST, None, 1.0, 2**30, (0.5, 0.4, 0.6), (0.1,), 0.9),
        LoadReading(PLAIN, Rung.DISK, None, 1.0, 2**30, (2.0,)),
        LoadReading(PLAIN, Rung.HOST, 8, 0.5, 2**30, (0.3,)),
    ),
    opens=(OpenReading(1, 256, 2**20, (0.01,)), OpenReading(1, 2048, 2**23, (0.02,))),
    steps=(
        step(False, 50, 0.1),
        step(False, 300, 0.5),
        step(False, 300, 1.5, layers=8, share=0.5),
        step(True, 1, 0.01, context_tokens=72),
        step(True, 1, 0.03, context_tokens=72, layers=8, share=0.5),
        step(True, 1, 0.02, context_tokens=1008),
        step(True, 8, 0.04, batch=8, context_tokens=90),
    ),
    kv=(KvReading(1000, 2**23, None, (0.002,), (0.001,)),),
    cycles=(CYCLE, replace(CYCLE, stays=True, point_tokens=100)),
    links=(LinkReading("memory copy", "flat", 2**26, (0.01,)),),
)
READINGS = Readings(
    "coder", Identity("d", "a build", "a machine"), 16, 2**30, 0, 0, 8192, (DEVICE,)
)


def test_a_row_says_what_most_decisions_rest_on() -> None:
    (row,) = rows_of(READINGS)
    assert dict(zip(COLUMNS, row, strict=True)) == {
        "MODEL": "coder",
        "DEVICE": "gpu0",
        "FORM": "plain",
        "LOAD": "500.0 ms",
        "FROM DISK": "2.00 s",
        "CONTEXT": "10.0 ms",
        "FIRST TOKEN": "500.0 ms (300)",
        "TOKENS/S": "100",
        "AT BATCH 8": "200",
        "KV/1000": "7.8 MiB",
        "PREEMPTION": "460.0 ms",
    }


def test_what_was_not_measured_is_a_dash() -> None:
    few = replace(DEVICE, loads=DEVICE.loads[:1], opens=(), steps=(), kv=(), cycles=())
    (row,) = rows_of(replace(READINGS, devices=(few,)))
    assert row.count("-") == 6
    assert list(rows_of(replace(READINGS, devices=()))) == []


def test_kv_that_comes_back_before_the_first_token_counts_once() -> None:
    assert overhead_s(CYCLE) == pytest.approx(0.01 + 0.02 + 0.03 + 0.1 + 0.04 + 0.2 + 0.06)


def test_the_page_has_the_papers_tables() -> None:
    page = page_of([READINGS])
    assert "a machine; a build; the default mode" in page
    assert "| 500 | writer (1.0 GiB) | leave | 460.0 ms | 15.2 % | 499 |" in page
    assert "| 1000 | all | 8.0 MiB | 2.0 ms | 1.0 ms | 8.2 KiB |" in page
    assert "| plain | host | all | 500.0 ms | 20% | 900.0 ms | 100.0 ms |" in page


def test_pictures_of_all_that_was_read_and_of_nothing_else(tmp_path: Path) -> None:
    written = draw([READINGS], tmp_path / "new" / "folder")
    assert [path.name for path in written] == [
        "coder-gpu0-offload.png",
        "coder-gpu0-preemption.png",
        "coder-gpu0-kv.png",
        "coder-gpu0-decode.png",
        "coder-gpu0-prefill.png",
        "profiles.md",
    ]
    for path in written[:-1]:
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert path.stat().st_size < 2**20
    bare = replace(READINGS, devices=(DeviceReadings("cpu0", "cpu", 2),))
    assert [path.name for path in draw([bare], tmp_path)] == ["profiles.md"]
