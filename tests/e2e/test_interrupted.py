"""Ctrl-C in the middle of long work: a partial result that says so, and nothing half written.

The signal goes to the whole group, as from a terminal, and in one case to the one process.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import DEADLINE_S, wait_for

from repertory.traces.files import read_workload
from repertory.traces.runs import read_run

FLEET = "nodes: [{id: box, count: 2, devices: [{gpu: h100_sxm, count: 8}]}]"
CATALOG = "gpus: [{gpu: l4, price: 0.8, per_node: 1-8}, {gpu: h100_sxm, price: 3.0}]"


def started(*words: str, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "repertory", *words]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def pressed(running: "subprocess.Popen[str]", *, in_terminal: bool = True) -> tuple[str, str]:
    """Ctrl-C, and what was said until the end."""
    if in_terminal:
        os.killpg(running.pid, signal.SIGINT)
    else:
        running.send_signal(signal.SIGINT)
    out, said = running.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in said, said
    return out, said


@pytest.mark.parametrize("in_terminal", [True, False])
def test_of_several_policies_each_that_had_begun_leaves_a_part(
    tmp_path: Path, in_terminal: bool
) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    words = ("simulate", "--fleet", "fleet.yaml", "--workload", "week", "--requests", "2000000")
    names = ("repertory", "lru-count", "reactive", "ollama", "repertory:latency")
    running = started(*words, "--policy", ",".join(names), folder=tmp_path)
    runs = tmp_path / "runs"
    wait_for(lambda: any(one.stat().st_size > 4096 for one in runs.glob("*.part")))
    out, said = pressed(running, in_terminal=in_terminal)
    assert running.returncode == 1
    assert "interrupted: runs/week-" in said
    assert "runs did not begin" in said
    left = sorted(runs.iterdir())
    assert left, "those that had begun"
    assert [path.suffix for path in left] == [".jsonl"] * len(left)
    for path in left:
        run = read_run(path)
        assert run.header.note == f"interrupted after {len(run.records)} requests"
        assert str(path.relative_to(tmp_path)) in out


def test_processes_that_have_hardly_begun_are_not_killed_by_it(tmp_path: Path) -> None:
    """They import for a second before they play: Ctrl-C in it is for the parent to hear."""
    (tmp_path / "fleet.yaml").write_text(FLEET)
    words = ("simulate", "--fleet", "fleet.yaml", "--workload", "week", "--requests", "2000000")
    running = started(*words, "--policy", "repertory,ollama", folder=tmp_path)
    wait_for(lambda: _children(running.pid))
    _, said = pressed(running)
    assert running.returncode == 1
    assert "interrupted:" in said


def _children(pid: int) -> list[str]:
    """Of it, those that play."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = [Path(f"/proc/{one}/cmdline").read_bytes() for one in found]
    return [one for one, line in zip(found, lines, strict=True) if b"spawn_main" in line]


def test_a_plan_tells_the_best_so_far(tmp_path: Path) -> None:
    (tmp_path / "gpus.yaml").write_text(CATALOG)
    words = ("plan", "--catalog", "gpus.yaml", "--workload", "week", "--requests", "20000")
    running = started(*words, folder=tmp_path)
    wait_for(lambda: _children(running.pid))
    out, said = pressed(running)
    assert running.returncode == 1
    assert "interrupted after" in said
    assert "this is a part of the plan" in said
    assert out.startswith("simulated; repertory; SLO")


@pytest.mark.parametrize("name", ["w.jsonl", "w.jsonl.gz", "w.parquet"])
def test_a_workload_file_ends_with_that_it_is_a_part(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    running = started("trace", "make", "tail-100", "-o", name, folder=tmp_path)
    wait_for(lambda: path.exists() and path.stat().st_size > 10_000)
    _, said = pressed(running)
    assert running.returncode == 1
    assert f"interrupted; the end of {name} says that it is a part" in said
    told: list[str] = []
    count = sum(1 for _ in read_workload(path, told.append))
    assert told == [f"{path}: this is a part only: its making was {_why(count, told)}"]


def _why(count: int, told: list[str]) -> str:
    words = f"interrupted after {count:,} requests, at "
    assert words in told[0]
    return told[0].partition("its making was ")[2]


def test_a_description_is_of_what_was_read(tmp_path: Path) -> None:
    running = started("trace", "describe", "tail-100", "--json", folder=tmp_path)
    wait_for(_is_working(running.pid))
    out, said = pressed(running)
    assert running.returncode == 0
    assert "interrupted: a part, up to" in said
    assert json.loads(out)["is_part"] is True


def _is_working(pid: int) -> Callable[[], bool]:
    """It has computed for longer than it takes to begin."""

    def seconds() -> bool:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) / os.sysconf("SC_CLK_TCK") > 2.5

    return seconds
