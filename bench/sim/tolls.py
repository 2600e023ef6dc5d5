"""What a server and its client take of the cores on which models compute: a run of its own.

The simulator is held against live runs (`live`); what it adds for server and client to a worker's
costs (`repertory.sim.served`) is read here, on arrivals of another kind, and side by side with what
is simulated of them.  Two minutes and a half, a profile included:

1. Singles, two models by turns, room for one of them: each a swap on an otherwise idle machine.
2. Stairs, by turns too: one arrival, one more, two more, four, eight, so that contexts are resized
   while one, two, four and eight sequences decode.
3. A stream, room for all: one model's requests, now 4 and now 12 a second, then a larger one's.
4. Crowds: 4, 8, 16 equal requests at once, which then decode with nobody coming or going.
5. Memory: what it takes to fill what this process has had just before, and has not had for long.
"""

import asyncio
import ctypes
import mmap
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench.checks import Check
from bench.serve.models import folder_of
from bench.serve.run import Run
from bench.serve.systems import repertory
from repertory.bench.asking import Endpoint
from repertory.bench.playing import Play, play
from repertory.bench.prompts import Prompts
from repertory.core.journal import encode, read_lines
from repertory.domain.workloads import Arrival, RequestRecord
from repertory.sim.play import Scenario
from repertory.sim.play import play as simulate
from repertory.sim.served import served
from repertory.traces.files import read_workload, write_workload

__all__ = ["tolls"]

_PAIR = ("50m-a", "50m-b")
_BEGIN_S = 2.0
_STAIRS = ((0.0, 1), (0.15, 1), (0.3, 2), (0.5, 4), (0.8, 8))
"""Seconds from the first, and how many arrive then."""
_RATES = (("50m-a", (4.0, 12.0, 4.0, 12.0, 4.0), 6.0), ("300m-a", (1.2,), 20.0))
"""Of whom, so many a second, for so many seconds each."""
_MIB = 1 << 20


def _singles() -> Iterator[Arrival]:
    for at in range(40):
        yield Arrival(_BEGIN_S + 0.4 * at, _PAIR[at % 2], 64, 24)


def _stairs() -> Iterator[Arrival]:
    for flight in range(8):
        for at_s, count in _STAIRS:
            for each in range(count):
                due_s = _BEGIN_S + 4.5 * flight + at_s + 0.001 * each
                yield Arrival(due_s, _PAIR[flight % 2], 64, 96)


def _stream() -> Iterator[Arrival]:
    luck, begin_s = random.Random("tolls"), _BEGIN_S
    for name, rates, each_s in _RATES:
        for per_s in rates:
            at_s = begin_s + luck.expovariate(per_s)
            while at_s < begin_s + each_s:
                yield Arrival(round(at_s, 6), name, luck.randint(16, 160), luck.randint(8, 40))
                at_s += luck.expovariate(per_s)
            begin_s += each_s


def _crowds() -> Iterator[Arrival]:
    for at, count in enumerate((4, 8, 16) * 2):
        for _ in range(count):
            yield Arrival(_BEGIN_S + 3.0 * at, "50m-a", 64, 96)


@dataclass(frozen=True)
class _Part:
    arrivals: Callable[[], Iterator[Arrival]]
    models: tuple[str, ...]
    memory_mib: int


_PARTS = {
    "singles": _Part(_singles, _PAIR, 340),
    "stairs": _Part(_stairs, _PAIR, 340),
    "stream": _Part(_stream, ("50m-a", "300m-a"), 3072),
    "crowds": _Part(_crowds, ("50m-a",), 3072),
}


def tolls(run: Run) -> list[Check]:
    """No bars: constants are read off it."""
    root = run.root / "tolls"
    raw: dict[str, object] = {"memory": _memory(run)}
    for number, (name, part) in enumerate(_PARTS.items()):
        folder = root / name
        if not (folder / "done").exists():
            run.say(name)
            _play(run, part, number, folder, _profiled(run, root))
            (folder / "done").touch()
        raw[name] = found = {
            "measured": _read(_logged(folder)),
            "simulated": _read(_simulated(folder)),
        }
        for origin, kinds in found.items():
            run.say(f"{name}, {origin}, ms: {kinds}")
    run.keep("tolls", raw)
    return []


def _profiled(run: Run, root: Path) -> Path:
    """As the machine is now: `live` reads its own."""
    state, names = root / "profiled", (*_PAIR, "300m-a")
    if not (root / "profiled.done").exists():
        run.say("profiling three models")
        shutil.rmtree(state, ignore_errors=True)
        command = [sys.executable, "-m", "repertory", "profile", *names, "--quick"]
        source = folder_of(names, run.root, run.say)
        command += ["--source", str(source), "--state-dir", str(state), "--memory", "3GiB"]
        subprocess.run(command, check=True, capture_output=True)
        (root / "profiled.done").touch()
    return state / "profiles"


def _play(run: Run, part: _Part, seed: int, folder: Path, profiles: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(profiles, folder / "profiles")
    write_workload(folder / "asked.jsonl", part.arrivals())
    arrivals = list(read_workload(folder / "asked.jsonl"))
    records: list[RequestRecord] = []
    models = folder_of(part.models, run.root, run.say)
    with repertory(models, folder, "--memory", f"{part.memory_mib}MiB") as ours:
        to = Endpoint(ours.url, has_priority=True)
        asyncio.run(play(to, arrivals, Play(), Prompts(seed, as_text=False), records.append))


def _logged(folder: Path) -> list[bytes]:
    with (folder / "decisions.jsonl").open("rb") as lines:
        return list(lines)


def _simulated(folder: Path) -> list[bytes]:
    logged = _logged(folder)
    server = served(logged, folder.name)
    scenario = Scenario(server.fleet, "repertory", read=server.read, served=server)
    told = logged[:1]
    asked = read_workload(folder / "asked.jsonl")
    simulate(scenario, asked, lambda _: None, lambda decision: told.append(encode(decision)))
    return told


def _read(lines: Iterable[bytes]) -> dict[str, float]:
    """Means over a part, in ms: what is asked for, and how long it takes."""
    told: dict[str, list[float]] = {}
    arrived, first, kinds = dict[str, int](), dict[str, int](), dict[int, str]()
    for entry in read_lines(iter(list(lines)[1:])):
        event, at_ns = entry["event"], entry["event"]["at_ns"]
        match event["kind"]:
            case "Arrived":
                arrived[event["request"]["id"]] = at_ns
            case "FirstToken":
                first.setdefault(event["request_id"], at_ns)
                told.setdefault("to first token", []).append(at_ns - arrived[event["request_id"]])
            case "Finished":
                later = max(1, event["output_tokens"] - 1)
                told.setdefault("prompt", []).append(event["prefill_ns"])
                told.setdefault("step", []).append(event["decode_ns"] / later)
                passed_ns = at_ns - first[event["request_id"]]
                told.setdefault("between tokens", []).append(passed_ns / later)
            case "TransitionDone" if event["action_id"] in kinds:
                kind = kinds[event["action_id"]]
                told.setdefault(kind, []).append(event["measured"]["took_ns"])
            case _:
                pass
        kinds |= {one["action_id"]: one["kind"] for one in entry["actions"] if "action_id" in one}
    return {what: round(fmean(values) / 1e6, 2) for what, values in told.items()}


def _memory(run: Run) -> dict[str, float]:
    """Milliseconds to fill so much."""
    found = {}
    for mib in (8, 64):
        _filled_ms(mib)
        for wait_s in (0.0, 0.5, 3.0):
            time.sleep(wait_s)
            found[f"{mib} MiB, free for {wait_s:g} s"] = round(_filled_ms(mib), 1)
    run.say(f"memory, ms: {found}")
    return found


def _filled_ms(mib: int) -> float:
    """In huge pages, as the worker has it."""
    with mmap.mmap(-1, mib * _MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapping:
        mapping.madvise(mmap.MADV_HUGEPAGE)
        room = (ctypes.c_char * (mib * _MIB)).from_buffer(mapping)
        began_s = time.perf_counter()
        ctypes.memset(room, 0, mib * _MIB)
        took_s = time.perf_counter() - began_s
        del room
    return 1e3 * took_s
