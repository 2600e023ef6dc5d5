"""`repertory bench` against a real server of ours, as a person runs it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from serving import DEADLINE_S, RunningServer, wait_for

from repertory.domain.workloads import Arrival, Ending, Origin
from repertory.traces.files import write_workload
from repertory.traces.runs import read_run


def bench(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "repertory", "bench", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def workload(path: Path, requests: int, gap_s: float = 0.05) -> Path:
    names = ("first", "second")
    write_workload(
        path, (Arrival(at * gap_s, names[at % 2], 12, 4, key="k") for at in range(requests))
    )
    return path


def test_a_workload_is_played_and_every_request_has_a_record(
    server: RunningServer, tmp_path: Path
) -> None:
    workload(tmp_path / "w.jsonl", 20)
    (tmp_path / "map.yaml").write_text("first: ant\nsecond: bee\n")
    words = ("-w", "w.jsonl", "--models", "map.yaml", "--words", "--warm-up", "0.2", "--json")
    done = bench(server.url, *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["total"]["requests"] == 16
    assert summary["total"]["done"] == 16
    run = read_run(tmp_path / "w-run.jsonl")
    assert run.header.origin is Origin.MEASURED
    assert {record.model for record in run.records} == {"first", "second"}
    assert all(record.output_tokens == 4 for record in run.records)
    assert sum(record.is_warmup for record in run.records) == 4
    assert run.header.models == {"first": "ant", "second": "bee"}
    log = (server.state_dir / "decisions.jsonl").read_text()
    assert all(f'"{record.request_id.removeprefix("cmpl-")}"' in log for record in run.records)


def test_a_model_that_the_server_does_not_have_fails_with_its_words(
    server: RunningServer, tmp_path: Path
) -> None:
    workload(tmp_path / "w.jsonl", 2)
    done = bench(f"{server.url}/v1", "-w", "w.jsonl", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (record, _) = read_run(tmp_path / "w-run.jsonl").records
    assert record.ending is Ending.FAILED
    assert (record.status, "first" in record.message) == (404, True)
    assert f"1 failed: {record.message}\n" in done.stdout


def test_servers_are_compared_in_turns(server: RunningServer, tmp_path: Path) -> None:
    workload(tmp_path / "w.jsonl", 6)
    (tmp_path / "map.yaml").write_text("first: ant\nsecond: bee\n")
    targets = (f"a={server.url}", f"b={server.url}")
    words = ("-w", "w.jsonl", "--models", "map.yaml", "--words", "-o", "out", "--json")
    done = bench("compare", *targets, *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["not done"]["values"] == {"a": 0.0, "b": 0.0}
    assert set(rows["TTFT p50, s"]["ratios"]) == {"b"}
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["a-0.jsonl", "a-1.jsonl", "b-0.jsonl", "b-1.jsonl"]


def test_interrupted_it_leaves_a_file_that_says_so(server: RunningServer, tmp_path: Path) -> None:
    workload(tmp_path / "w.jsonl", 100, gap_s=0.5)
    (tmp_path / "map.yaml").write_text("first: ant\nsecond: bee\n")
    command = [sys.executable, "-m", "repertory", "bench", server.url, "-w", "w.jsonl"]
    command += ["--models", "map.yaml", "--speed", "10"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    path = tmp_path / "w-run.jsonl"
    wait_for(lambda: path.exists() and path.stat().st_size > 0)
    running.send_signal(signal.SIGINT)
    _, words = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 1
    assert "says that it is a part" in words
    run = read_run(path)
    assert run.header.note == "interrupted: a part of the workload"
    assert len(run.records) < 100


def test_an_interrupted_comparison_tells_what_is_whole(
    server: RunningServer, tmp_path: Path
) -> None:
    workload(tmp_path / "w.jsonl", 20, gap_s=0.2)
    (tmp_path / "map.yaml").write_text("first: ant\nsecond: bee\n")
    command = [sys.executable, "-m", "repertory", "bench", "compare"]
    command += [f"a={server.url}", f"b={server.url}", "-w", "w.jsonl", "--models", "map.yaml"]
    running = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    path = tmp_path / "compare/b-0.jsonl"
    wait_for(lambda: path.exists() and path.stat().st_size > 0)
    running.send_signal(signal.SIGINT)
    table, words = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 1
    assert "Traceback" not in words
    assert "interrupted: of 4 runs 1 are whole and counted; compare/b-0.jsonl says" in words
    assert table.splitlines()[0].split() == ["measured", "A", "B", "b/a"]
    assert read_run(tmp_path / "compare/a-0.jsonl").header.note == ""
    assert read_run(path).header.note == "interrupted: a part of the workload"


def test_a_wrong_row_ends_a_run_that_says_so(server: RunningServer, tmp_path: Path) -> None:
    path = workload(tmp_path / "w.jsonl", 6)
    (tmp_path / "map.yaml").write_text("first: ant\nsecond: bee\n")
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*rows, rows[0]]))
    words = ("-w", "w.jsonl", "--models", "map.yaml", "--words")
    done = bench(server.url, *words, folder=tmp_path)
    assert done.returncode == 2
    assert "w.jsonl:7: at_s is 0.0, before the row ahead of it" in done.stderr
    run = read_run(tmp_path / "w-run.jsonl")
    assert run.header.note.startswith("a part of the workload: ")
    assert "w.jsonl:7" in run.header.note
    assert len(run.records) == 6


def test_a_workload_that_is_wrong_from_the_start_makes_no_file(
    server: RunningServer, tmp_path: Path
) -> None:
    (tmp_path / "w.jsonl").write_text("{}\n")
    done = bench(server.url, "-w", "w.jsonl", folder=tmp_path)
    assert (done.returncode, "w.jsonl:1: 'at_s' is missing" in done.stderr) == (2, True)
    assert [one.name for one in tmp_path.iterdir()] == ["w.jsonl"]


def test_a_file_that_cannot_be_written_is_said(server: RunningServer, tmp_path: Path) -> None:
    workload(tmp_path / "w.jsonl", 2)
    done = bench(server.url, "-w", "w.jsonl", "-o", "no/run.jsonl", folder=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "repertory: no/run.jsonl: cannot be written: No such file or directory\n",
    )


def test_what_is_wrong_is_said_before_anything_is_sent(
    server: RunningServer, tmp_path: Path
) -> None:
    workload(tmp_path / "w.jsonl", 2)
    assert "no address" in bench("localhost", "-w", "w.jsonl", folder=tmp_path).stderr
    gone = bench("http://127.0.0.1:1", "-w", "w.jsonl", folder=tmp_path)
    assert (gone.returncode, "no server answers at" in gone.stderr) == (3, True)
    (tmp_path / "map.yaml").write_text("first: [ant]\n")
    wrong = bench(server.url, "-w", "w.jsonl", "--models", "map.yaml", folder=tmp_path)
    assert (wrong.returncode, "map.yaml:1" in wrong.stderr) == (2, True)
    nobody = bench("compare", server.url, "-w", "w.jsonl", folder=tmp_path)
    assert "NAME=URL" in nobody.stderr
