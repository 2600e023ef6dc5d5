"""An unknown file is opened in a throwaway child; one that kills it is quarantined."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from running import Walk, running_engine, spec_of

from repertory.domain.errors import EngineError, LoadFailed, OutOfMemory, Quarantined
from repertory.domain.specs import ModelSpec
from repertory.engines.llamacpp.trial import Trials

GENUINE = (sys.executable, "-m", "repertory.engines.llamacpp.trial")


def child(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


KILLED = child("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
HANGS = child("import threading; threading.Event().wait()")
NEVER = child("raise SystemExit('nobody may ask again')")


def test_a_good_file_is_proven_once(model_file, tmp_path):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file())
    Trials(tmp_path, GENUINE).prove(spec)
    Trials(tmp_path, NEVER).prove(spec)


def test_a_file_that_kills_the_child_is_quarantined_for_good(model_file, tmp_path):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file())
    with pytest.raises(Quarantined, match="SIGSEGV"):
        Trials(tmp_path, KILLED).prove(spec)
    with pytest.raises(Quarantined, match="SIGSEGV"):
        Trials(tmp_path, GENUINE).prove(spec)
    Trials(tmp_path, GENUINE).prove(replace(spec, digest="another file"))


def test_a_child_that_hangs_is_quarantined(model_file, tmp_path):  # type: ignore[no-untyped-def]
    with pytest.raises(Quarantined, match="did not end"):
        Trials(tmp_path, HANGS, least_timeout_s=0.5).prove(spec_of(model_file()))


@pytest.mark.parametrize(
    "source",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",  # as the kernel does
        'print(\'{"error": "Cannot allocate memory"}\'); raise SystemExit(71)',
    ],
)
def test_what_lacks_memory_now_is_tried_again_later(source, model_file, tmp_path):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file())
    with pytest.raises(OutOfMemory):
        Trials(tmp_path, child(source)).prove(spec)
    Trials(tmp_path, GENUINE).prove(spec)


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_DATA, (%d << 20, %d << 20))
sys.argv[0] = "trial"
runpy.run_module("repertory.engines.llamacpp.trial", run_name="__main__")
"""


def test_a_trial_that_runs_out_of_memory_says_so(model_file):  # type: ignore[no-untyped-def]
    """With less and less of it: the library gives up in words, or aborts."""
    spec = spec_of(model_file(size="50m"))
    shortages = 0
    for mib in range(200, 90, -20):
        try:
            Trials(None, child(LIMITED % (mib, mib))).prove(spec)
        except OutOfMemory:
            shortages += 1
    assert shortages


def broken(kind: str, good: bytes) -> bytes:
    match kind:
        case "truncated":
            return good[: len(good) // 2]
        case "garbage":
            return bytes(range(256)) * 400
        case "empty":
            return b""
        case _:
            # The last tensor's offset is the last 8 bytes before the data's padding.
            end = good.rindex(b"output.weight") + len("output.weight") + 4 + 2 * 8 + 4
            return good[:end] + (1 << 40).to_bytes(8, "little") + good[end + 8 :]


@pytest.mark.parametrize("kind", ["truncated", "garbage", "empty", "lying offsets"])
def test_a_broken_file_fails_with_a_reason_and_is_not_proven(kind, model_file, tmp_path):  # type: ignore[no-untyped-def]
    path = tmp_path / "broken.gguf"
    path.write_bytes(broken(kind, model_file().read_bytes()))
    spec = replace(spec_of(model_file()), digest=kind, location=str(path))
    for _ in range(2):
        with pytest.raises(LoadFailed, match="cannot"):
            Trials(tmp_path, GENUINE).prove(spec)


def test_the_child_prints_one_line_of_json(model_file):  # type: ignore[no-untyped-def]
    ended = subprocess.run(
        [*GENUINE, str(model_file(weights="q4_0")), "--tokens", "3", "--form", "repacked"],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = ended.stdout.splitlines()
    answer = json.loads(line)
    assert len(answer["tokens"]) == 3
    assert answer["vocabulary_tokens"] == 1024


def test_a_worker_refuses_a_broken_file_and_serves_on(model_file, tmp_path):  # type: ignore[no-untyped-def]
    import asyncio

    async def run() -> None:
        path = tmp_path / "broken.gguf"
        path.write_bytes(broken("truncated", model_file().read_bytes()))
        bad = replace(spec_of(model_file()), location=str(path))
        async with running_engine("--state-dir", str(tmp_path)) as engine:
            with pytest.raises(EngineError):
                await Walk(engine, bad, "bad").load()
            good: ModelSpec = spec_of(Path(model_file()))
            await Walk(engine, good, "good").serve(1, 256)

    asyncio.run(run())
