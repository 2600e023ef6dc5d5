"""`tools/gpu_check.sh` itself, on the CPU: what it refuses, how it resumes, what it writes."""

import contextlib
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import llama_cpp
import msgspec
import pytest
from gpucheck import machine
from gpucheck.costs.wanted import layers_to_try, share_there, wanted
from gpucheck.result import Item, Report
from gpucheck.shapes import SHAPES

from accelerating import rpc_server

ROOT = Path(__file__).parents[2]
LIBRARY = Path(llama_cpp.__file__).parent / "lib"
AGAIN = 75
ITEMS = [item for _, item in wanted(["tiny"])]
CMAKE = """#!/usr/bin/env bash
# Stands in for cmake: configures at once; compiles one file in each call, then hangs, until there
# are two files; then the library is there.
set -eu
echo "$1" >> "$CALLS"
if [ "$1" = -S ]; then touch "$4/CMakeCache.txt"; exit 0; fi
build="$2"
[ -e "$build/first.o" ] || { touch "$build/first.o"; exec tail -f /dev/null; }
touch "$build/second.o"
ln -s "$LIBRARY" "$build/bin"
"""


ONE_CORE = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
ONE_CORE += "os.execvp(sys.argv[1], sys.argv[1:])"
"""Threads wait for each other at every layer, and on a busy machine that takes most of the time:
a rehearsal took 26 s on one of two cores and 198 on both, while others computed."""
COMMAND = [
    sys.executable,
    "-c",
    ONE_CORE,
    "bash",
    str(ROOT / "tools" / "gpu_check.sh"),
    "--python",
    sys.executable,
]
PAGEABLE = ("flat, pageable", "per tensor, pageable")


def environment_for(path: str = "", **environment: str) -> dict[str, str]:
    inherited = dict(os.environ)  # noqa: TID251 - PATH, as the user has it
    return {**inherited, **environment, "PATH": (path + os.pathsep + inherited["PATH"]).lstrip(":")}


def gpu_check(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment_for(environment.pop("PATH", ""), **environment),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def fixed(out: Path) -> list[str]:
    """With the library that is installed, on the smallest model."""
    return ["--cpu", "--models", "tiny", "--library", str(LIBRARY), "--out", str(out)]


def rehearse(out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return gpu_check(*fixed(out), *arguments)


def report_in(out: Path, device: str = "cpu") -> Report:
    return msgspec.json.decode((out / f"gpu_check-{device}.json").read_bytes(), type=Report)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp("rehearsed")
    done = rehearse(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "--out is missing"),
        (("--out", "there"), "--source is missing"),
        (("--fast",), "--fast is no option, or lacks its value"),
        (("--fast", "1"), "unknown option --fast"),
        (("--out",), "--out is no option, or lacks its value"),
        (("--out", "there", "--source", "nowhere"), "nowhere is no engine folder"),
        (("--out", "there", "--library", "nowhere"), "there is no libllama.so in nowhere"),
        (("--out", "there", "--library", ".", "--stage", "some"), "no stage some"),
        (("--out", "there", "--library", ".", "--budget-s", "soon"), "--budget-s wants whole"),
        (("--out", "there", "--library", ".", "--arch", "hopper"), "--arch wants a number"),
        (("--out", "there", "--source", ".", "--rpc", "a:1"), "--rpc wants a --library that has"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = gpu_check(*arguments)
    assert refused.returncode == 1
    assert reason in refused.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_refused_with_the_names_that_are(tmp_path: Path) -> None:
    refused = rehearse(tmp_path, "--models", "70b")
    assert refused.returncode == 1
    assert f"no model '70b'; there are {', '.join(SHAPES)}" in refused.stderr


def test_an_item_that_is_not_there_is_refused_with_the_names_that_are(tmp_path: Path) -> None:
    refused = rehearse(tmp_path, "--items", "speed")
    assert refused.returncode == 1
    assert "no item 'speed'; there are ladder, layers, worker, link, resume" in refused.stderr


def test_a_rehearsal_on_the_cpu_measures_every_stage(rehearsed: Path) -> None:
    report = report_in(rehearsed)
    assert report.is_complete
    assert report.failures == report.missing == []
    assert [(item.model, item.name) for item in report.items] == [("tiny", one) for one in ITEMS]
    stages = {item.name: {one.name: one for one in item.stages} for item in report.items}
    assert stages["ladder"].keys() >= {
        *("load", "context", "prefill", "decode_alone", "kv_save_median", "kv_restore_median"),
        *("decode_company", "free_context", "unload"),
        *("load_again", "context_again", "free_context_again", "unload_again"),
    }
    assert stages["worker"].keys() >= {"load", "activate", "generate_company", "unload"}
    assert all(one.seconds > 0 for item in report.items for one in item.stages)
    load, decode = stages["ladder"]["load"], stages["ladder"]["decode_company"]
    assert load.bytes is not None
    assert load.gb_per_s == pytest.approx(load.bytes / 1e9 / load.seconds)
    shape = SHAPES["tiny"]
    assert decode.tokens == shape.sequences * shape.decode_tokens
    assert decode.tokens_per_s == pytest.approx(decode.tokens / decode.seconds)
    ladder = report.items[0]
    assert [(check.name, check.holds) for check in ladder.freed] == [
        ("unload", True),
        ("unload_again", True),
    ]
    saved_bytes = ladder.figures["kv_saved_bytes_per_token"]
    assert shape.kv_bytes_per_token <= saved_bytes <= shape.kv_bytes_per_token + 32


def by_name(report: Report) -> dict[str, Item]:
    return {item.name: item for item in report.items}


def check_costs(report: Report) -> None:
    """Every cost item of `tiny` measured what it should."""
    found, shape = by_name(report), SHAPES["tiny"]
    for layers in layers_to_try(shape):
        steps = found[f"offload-{layers}"].costs.steps
        assert {one.share for one in steps} == {share_there(shape, layers)}
        assert {one.layers for one in steps} == {None if layers == shape.layers else layers}
        decoded = [one.context_tokens for one in steps if one.decode]
        assert sorted(decoded) == sorted(shape.lengths)
        assert sorted(one.tokens for one in steps if not one.decode) == sorted(shape.lengths)
        assert all(len(one.seconds) == 3 for one in steps)
        assert found[f"offload-{layers}"].costs.notes == []
    cycles = found["preempt-for-tiny"].costs.cycles
    assert [one.point_tokens for one in cycles if not one.stays] == list(shape.points)
    assert [one.point_tokens for one in cycles if one.stays] == [20, 100, 400]
    for one in cycles:
        grown_bytes = one.kv_bytes - shape.kv_bytes_per_token * one.point_tokens
        assert 0 <= grown_bytes <= 32 * (one.point_tokens + 4)
        assert (one.load_s > 0.0) is (one.out_s > 0.0) is (not one.stays)
        assert one.logits_apart_share == 0.0
    by_kv, by_replay = found["resume"].costs.resumes
    assert (by_kv.way, by_kv.same_tokens) == ("kv", by_kv.tokens)
    assert by_kv.logprob_difference_max == 0.0
    assert by_replay.way == "replay"
    assert by_replay.logprob_difference_max < 0.5
    links = {(one.what, one.how) for one in found["link"].costs.links}
    assert links == {
        *((what, how) for what in ("device in", "device out") for how in PAGEABLE),
        *(("memory copy", "flat"), ("disk read", "buffered"), ("page cache read", "buffered")),
    }
    assert "pinned memory is not offered by this device" in found["link"].costs.notes
    assert {curve.kind for curve in report.costs.curves} == {"decode", "prefill"}
    assert [row.stays for row in report.costs.interruptions] == [False, True]
    assert report.costs.answers[0].startswith("tiny for tiny: the cost ")


def test_a_rehearsal_measures_costs_and_draws_them(rehearsed: Path) -> None:
    check_costs(report_in(rehearsed))
    drawn = rehearsed / "gpu_check-cpu.png"
    assert drawn.exists() is (find_spec("matplotlib") is not None)


def test_with_an_rpc_device_layers_really_move(tmp_path: Path) -> None:
    """A device on loopback stands in for a GPU: `n_gpu_layers` is real there."""
    with rpc_server() as server:
        done = rehearse(
            tmp_path, "--rpc", server.endpoint, "--items", "worker,link,resume,offload,preempt"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    report = report_in(tmp_path, "rpc")
    assert report.is_complete
    assert report.failures == []
    check_costs(report)
    found = by_name(report)
    assert {item.library.backend for item in report.items if item.library} == {"rpc"}
    there = [found[f"offload-{layers}"].stages[0].bytes for layers in range(1, 5)]
    assert there == sorted(there)
    assert 0 < there[0] < there[-1]
    gone = rehearse(tmp_path, "--rpc", server.endpoint, "--items", "ladder")
    assert gone.returncode == 1
    assert f"Failed to connect to {server.endpoint}" in report_in(tmp_path, "rpc").failures[-1]


def test_after_a_kill_in_the_middle_the_rest_is_measured(tmp_path: Path) -> None:
    """What was done stays done; what was killed is begun anew; nothing of it goes on by itself."""
    assert rehearse(tmp_path, "--stage", "models").returncode == 0
    wanted_items = ["--items", "offload,preempt"]
    with subprocess.Popen(
        [*COMMAND, *fixed(tmp_path), *wanted_items],
        env=environment_for(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as killed:
        assert killed.stdout is not None
        while not killed.stdout.readline().startswith("measuring tiny offload-1 "):
            assert killed.poll() is None
        while not (children := measuring(tmp_path)):
            assert killed.poll() is None
        os.killpg(killed.pid, signal.SIGKILL)
    while measuring(tmp_path):  # the kernel ends it with its parent
        assert measuring(tmp_path) in ([], children), "another one was begun"
    results = tmp_path / "results-cpu"
    before = {path: path.stat().st_mtime_ns for path in results.glob("*.offload-[04].json")}
    assert len(before) == 2
    again = rehearse(tmp_path, *wanted_items)
    assert again.returncode == 0, again.stdout + again.stderr
    begun = [line.split()[2] for line in again.stdout.splitlines() if line.startswith("measuring")]
    assert begun == ["offload-1", "offload-3", "offload-2", "preempt-for-tiny"]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert report_in(tmp_path).failures == []


def measuring(out: Path) -> list[int]:
    """Processes that measure an item for this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"measure" in words and str(out).encode() in words:
                found.append(int(process.name))
    return found


def test_what_is_measured_is_not_measured_again(rehearsed: Path) -> None:
    before = report_in(rehearsed).items
    (rehearsed / "results-cpu" / "tiny.layers-half.json").unlink()
    again = rehearse(rehearsed)
    assert again.returncode == 0
    assert [line for line in again.stdout.splitlines() if line.startswith("measuring")] == [
        line for line in again.stdout.splitlines() if line.startswith("measuring tiny layers-half")
    ]
    after = report_in(rehearsed).items
    assert [one for one in after if one.name != "layers-half"] == [
        one for one in before if one.name != "layers-half"
    ]


def test_a_budget_that_ends_leaves_a_report_of_what_is_missing(tmp_path: Path) -> None:
    assert rehearse(tmp_path, "--stage", "models").returncode == 0
    again = rehearse(tmp_path, "--stage", "check", "--budget-s", "12")
    assert again.returncode == AGAIN
    report = report_in(tmp_path)
    assert not report.is_complete
    assert report.missing == [f"tiny/{item}" for item in ITEMS]


def test_checking_without_models_or_a_build_says_what_to_do_first(tmp_path: Path) -> None:
    unmade = rehearse(tmp_path, "--stage", "check")
    assert unmade.returncode == 1
    assert unmade.stderr.splitlines()[-1] == "tiny is not made yet: --stage models first"
    source = fake_source(tmp_path)
    unbuilt = gpu_check(
        "--cpu", "--source", str(source), "--out", str(tmp_path), "--stage", "check"
    )
    assert unbuilt.returncode == 1
    assert unbuilt.stderr.splitlines()[-1].endswith("nothing is built yet: --stage build first")


def test_a_build_goes_on_where_the_budget_ended_it(tmp_path: Path) -> None:
    source, calls = fake_source(tmp_path), tmp_path / "calls"
    programs = fake_programs(tmp_path, cmake=CMAKE)
    arguments = ["--cpu", "--source", str(source), "--out", str(tmp_path / "out")]
    arguments += ["--stage", "build", "--budget-s", "6"]
    codes: list[int] = []
    while len(codes) < 10 and codes[-1:] != [0]:  # a slow machine needs more calls
        done = gpu_check(*arguments, PATH=str(programs), CALLS=str(calls), LIBRARY=str(LIBRARY))
        codes.append(done.returncode)
        assert done.returncode in (0, AGAIN), done.stdout + done.stderr
    assert codes[0] == AGAIN
    assert codes[-1] == 0
    assert calls.read_text().split()[:2] == ["-S", "--build"]
    assert set(calls.read_text().split()[2:]) == {"--build"}
    assert (tmp_path / "out" / "build-cpu" / "built").exists()
    assert gpu_check(*arguments, PATH=str(programs)).stdout.endswith("the library is built\n")


def test_a_build_for_cuda_is_for_the_gpu_that_nvidia_smi_names(tmp_path: Path) -> None:
    programs = fake_programs(
        tmp_path,
        cmake=CMAKE,
        nvcc="#!/bin/sh\nexit 0\n",  # compiles and links what asks for cuBLAS: the toolkit has it
        **{"nvidia-smi": "#!/bin/sh\necho 9.0\n"},
    )
    (tmp_path / "out" / "build-cuda").mkdir(parents=True)
    (tmp_path / "out" / "build-cuda" / "first.o").touch()  # so that this cmake does not hang
    done = gpu_check(
        *("--source", str(fake_source(tmp_path)), "--out", str(tmp_path / "out")),
        *("--stage", "build"),
        PATH=str(programs),
        CALLS=str(tmp_path / "calls"),
        LIBRARY=str(LIBRARY),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = (tmp_path / "out" / "build-cuda" / "configured").read_text().splitlines()
    assert "-DGGML_CUDA=ON" in built
    assert "-DGGML_CUDA_NO_VMM=ON" in built
    assert "-DCMAKE_CUDA_ARCHITECTURES=90-real" in built
    other = gpu_check(
        *("--source", str(tmp_path / "engine"), "--out", str(tmp_path / "out")),
        *("--stage", "build", "--arch", "80"),
    )
    assert other.returncode == 1
    assert "is for another architecture" in other.stderr


def fake_programs(folder: Path, **texts: str) -> Path:
    """A folder of scripts for the PATH."""
    programs = folder / "programs"
    programs.mkdir()
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return programs


def test_the_machine_is_described_with_its_gpu_and_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.describe().gpu is None
    assert machine.smi_used_bytes() is None
    answer = (
        '#!/bin/sh\ncase "$1" in\n*memory.used*) echo 512 ;;\n'
        '*) echo "NVIDIA H200, 580.159, 9.0, 143771" ;;\nesac\n'
    )
    programs = fake_programs(tmp_path, **{"nvidia-smi": answer})
    monkeypatch.setenv("PATH", str(programs))
    described = machine.describe()
    assert (described.gpu, described.driver) == ("NVIDIA H200", "580.159")
    assert described.compute_capability == "9.0"
    assert described.gpu_memory_bytes == 143771 * 2**20
    assert described.nvcc is None
    assert machine.smi_used_bytes() == 512 * 2**20


def fake_source(folder: Path) -> Path:
    """Looks like an engine folder; what is in it is not read by the stand-in for cmake."""
    source = folder / "engine"
    (source / "vendor" / "llama.cpp").mkdir(parents=True)
    (source / "vendor" / "llama.cpp" / "CMakeLists.txt").touch()
    return source


def test_the_options_in_the_page_are_those_of_the_tools() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    for tool in ("gpu_check.sh", "pack_engine.sh"):
        shown = subprocess.run(
            ["bash", str(ROOT / "tools" / tool), "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        options = {word.strip("[].") for word in shown.split() if word.strip("[]").startswith("--")}
        assert options
        for option in sorted(options):
            assert f"`{option}" in page, f"{tool} {option}"
