"""The stages after the build: models, check, and measure, which is one item of a check."""

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gpucheck.costs import plot
from gpucheck.costs.names import claimant_of, kind_of, layers_of
from gpucheck.costs.summary import costs_table, summarise
from gpucheck.costs.wanted import KINDS, estimate_s, possible, wanted
from gpucheck.machine import describe, smi_used_bytes
from gpucheck.maker import NoRoom, make
from gpucheck.result import Freed, Item, Report, Stage, failures_of, read, table, write
from gpucheck.schedule import WHOLE, Ended, Outcome, item_path, measure_items, missing
from gpucheck.shapes import SHAPES
from repertory.fleet.leash import leashed

if TYPE_CHECKING:
    from gpucheck.measure import Taken
    from repertory.engines.llamacpp.library import Accelerator

__all__ = ["main"]

AGAIN = 75
_PROCESS_TOLERANCE_BYTES = 64 << 20
"""After a process has ended nothing of it may stay; other programs may come and go a little."""


class OutOfTime(Exception):
    """The budget ended in the middle of a file."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The budget of this call."""

    full_s: float
    ends_s: float

    def left_s(self) -> float:
        return self.ends_s - time.monotonic()


@dataclass(frozen=True, slots=True)
class Folder:
    """`--out`, and what lies where in it."""

    path: Path
    device: str

    @property
    def results(self) -> Path:
        """A rehearsal's results are no GPU's, so they lie apart."""
        return self.path / f"results-{self.device}"

    @property
    def report(self) -> Path:
        return self.path / f"gpu_check-{self.device}.json"

    @property
    def made(self) -> Path:
        return self.path / "models" / "made.json"

    def model(self, name: str) -> Path:
        return self.path / "models" / f"{name}.gguf"

    def made_before(self) -> dict[str, Stage]:
        if not self.made.exists():
            return {}
        return msgspec.json.decode(self.made.read_bytes(), type=dict[str, Stage])


def main() -> int:
    options = _options()
    folder = Folder(options.out, options.device)
    clock = Clock(options.full_budget_s, time.monotonic() + options.budget_s)
    match options.stage:
        case "models":
            return _make_models(folder, options.models, clock)
        case "check":
            return _check(folder, options, clock)
        case _:
            return _measure(folder, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpucheck")
    parser.add_argument("stage", choices=["models", "check", "measure"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", type=_models, default=[])
    parser.add_argument("--device", choices=["cuda", "cpu", "rpc"], required=True)
    parser.add_argument("--rpc", help="HOST:PORT of the RPC server that is the device")
    parser.add_argument("--items", type=_kinds, default=list(KINDS))
    parser.add_argument("--budget-s", type=float, default=0.0)
    parser.add_argument("--full-budget-s", type=float, default=0.0)
    parser.add_argument("--library", type=Path, help="where libllama.so lies")
    parser.add_argument("--item", help="of `measure`: what to measure of the one model")
    return parser.parse_args()


def _models(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SHAPES:
            raise argparse.ArgumentTypeError(f"no model {name!r}; there are {', '.join(SHAPES)}")
    return names


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"no item {kind!r}; there are {', '.join(KINDS)}")
    return kinds


def _make_models(folder: Folder, names: list[str], clock: Clock) -> int:
    """Write the files that are not there; one that the budget cuts off is begun anew."""
    for name in names:
        path = folder.model(name)
        if path.exists():
            continue
        began_with_s = clock.left_s()
        if began_with_s <= 0:
            return AGAIN
        started_s = time.monotonic()

        try:
            size_bytes = make(path, name, SHAPES[name], _Watch(name, clock))
        except OutOfTime:
            if began_with_s >= WHOLE * clock.full_s:
                return _failed(f"{name} cannot be written in one budget: raise --budget-s")
            return AGAIN
        except NoRoom as error:
            return _failed(str(error))
        stage = Stage.of("make", time.monotonic() - started_s, size_bytes)
        print(f"{name}: made in {stage.seconds:.1f} s, {stage.gb_per_s:.2f} GB/s", flush=True)
        made = folder.made_before() | {name: stage}
        folder.made.write_bytes(msgspec.json.encode(made))
    return 0


class _Watch:
    """Prints how far a file is, tenth by tenth, and ends the work when the budget ends."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name, self._clock = name, clock
        self._tenths = 0

    def __call__(self, written_bytes: int, total_bytes: int) -> None:
        tenths = 10 * written_bytes // total_bytes
        if tenths > self._tenths:
            self._tenths = tenths
            size = f"{written_bytes / 1e9:.2f} of {total_bytes / 1e9:.2f} GB"
            print(f"{self._name}: {size} written", flush=True)
        if self._clock.left_s() <= 0:
            raise OutOfTime


def _check(folder: Folder, options: argparse.Namespace, clock: Clock) -> int:
    """Measure what is missing, and write the report in any case."""
    for name in options.models:
        if not folder.model(name).exists():
            return _failed(f"{name} is not made yet: --stage models first")
    folder.results.mkdir(parents=True, exist_ok=True)

    def run(model: str, item: str, limit_s: float) -> Ended:
        print(f"measuring {model} {item} (at most {limit_s:.0f} s)", flush=True)
        return _run_item(folder, options, (model, item), limit_s)

    items = wanted(options.models, options.items)
    left = missing(folder.results, items)
    left_s = sum(estimate_s(*one) for one in left)
    guess = f"about {left_s / 60:.0f} minutes, by a guess for an H100"
    print(f"{len(left)} of {len(items)} items to measure: {guess}", flush=True)
    is_complete = measure_items(folder.results, items, clock, run)
    report = _report(folder, options)
    write(folder.report, report)
    print(table(report.items))
    print(costs_table(report.costs))
    print(f"written: {folder.report}")
    print(plot.draw(report, folder.report.with_suffix(".png")))
    if not is_complete:
        print(f"left for the next call: {', '.join(report.missing)}")
        return AGAIN
    for failure in report.failures:
        print(f"FAILED {failure}")
    return 1 if report.failures else 0


def _run_item(
    folder: Folder, options: argparse.Namespace, one: tuple[str, str], limit_s: float
) -> Ended:
    """Measure in a process of its own: a crash is one item's, and its memory must come back."""
    model, item = one
    before_bytes = smi_used_bytes()
    started_s = time.monotonic()
    command = [sys.executable, "-m", "gpucheck", "measure", "--out", str(folder.path)]
    command += ["--models", model, "--item", item, "--device", options.device]
    command += ["--rpc", options.rpc] if options.rpc else []
    log = item_path(folder.results, model, item).with_suffix(".log")
    with log.open("wb") as said:
        # If this call is killed, nobody reads the result, and the next one wants the device.
        process = subprocess.Popen(
            leashed(command), stdout=said, stderr=said, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its worker and trial with it
            process.wait()
            return Ended(Outcome.OUT_OF_TIME)
    if code != 0:
        return Ended(Outcome.FAILED, _last_words(log, code))
    took_s = time.monotonic() - started_s
    after_bytes = smi_used_bytes()
    checks = []
    if before_bytes is not None and after_bytes is not None and options.device == "cuda":
        found = (before_bytes, None, after_bytes, _PROCESS_TOLERANCE_BYTES)
        checks.append(Freed("process_end", "nvidia-smi", *found))
    path = item_path(folder.results, model, item)
    measured = read(path)
    assert measured is not None, f"{path} was not written"
    all_checks = [*measured.freed, *checks]
    write(path, msgspec.structs.replace(measured, freed=all_checks, took_s=took_s))
    return Ended(Outcome.DONE)


def _last_words(log: Path, code: int) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return f"{lines[-1] if lines else 'said nothing'} ({how}; see {log.name})"


def _report(folder: Folder, options: argparse.Namespace) -> Report:
    found = [read(item_path(folder.results, model, item)) for model, item in possible()]
    items = [one for one in found if one is not None]
    failures = [failure for one in items for failure in failures_of(one)]
    items_wanted = wanted(options.models, options.items)
    left = [f"{model}/{item}" for model, item in missing(folder.results, items_wanted)]
    return Report(
        is_complete=not left,
        missing=left,
        failures=failures,
        device=options.device,
        machine=describe(),
        built=_lines(options.library, "configured"),
        build_seconds=[float(line) for line in _lines(options.library, "seconds")],
        made=folder.made_before(),
        items=items,
        costs=summarise(items),
    )


def _lines(library: Path | None, name: str) -> list[str]:
    """What the build left about itself beside the library's folder."""
    path = None if library is None else library.parent / name
    return path.read_text().splitlines() if path is not None and path.exists() else []


def _measure(folder: Folder, options: argparse.Namespace) -> int:
    # Here and not above: the parent must not hold the device whose memory it watches.
    from gpucheck.measure import Wrong, describe_library, find_accelerator
    from repertory.domain.errors import RepertoryError

    (model,) = options.models
    is_worker = options.item == "worker"
    try:
        accelerator = None if is_worker else find_accelerator(options.device, options.rpc)
        taken = _taken(folder, options, accelerator)
    except (Wrong, RepertoryError) as error:
        return _failed(str(error))
    known = None if is_worker else describe_library(accelerator)
    found = (taken.stages, taken.freed, taken.figures, known)
    measured = Item(model, options.item, *found, costs=taken.costs)
    write(item_path(folder.results, model, options.item), measured)
    return 0


def _taken(
    folder: Folder, options: argparse.Namespace, accelerator: "Accelerator | None"
) -> "Taken":
    from gpucheck.costs.link import measure_links
    from gpucheck.costs.offload import measure_offload
    from gpucheck.costs.preempt import Party, measure_preemption
    from gpucheck.costs.resume import measure_resume
    from gpucheck.measure import measure_ladder, measure_layers
    from gpucheck.whole_worker import Where, measure_worker

    (model,) = options.models
    item, path, shape = options.item, folder.model(model), SHAPES[model]
    match kind_of(item):
        case "ladder":
            return measure_ladder(path, shape, accelerator)
        case "layers":
            layers = {"layers-0": 0, "layers-half": shape.layers // 2, "layers-all": None}
            reference = folder.results / f"{model}.logits.npy"
            return measure_layers(path, layers[item], accelerator, reference)
        case "link":
            return measure_links(path, shape, accelerator)
        case "resume":
            return measure_resume(path, shape, accelerator)
        case "offload":
            kept_kv = folder.results / f"{model}.kv"
            return measure_offload(path, shape, layers_of(item), accelerator, kept_kv)
        case "preempt":
            other = claimant_of(item)
            claimant = Party(other, folder.model(other), SHAPES[other])
            return measure_preemption(Party(model, path, shape), claimant, accelerator)
        case _:
            log = folder.results / f"{model}.worker-log.txt"
            return measure_worker(path, shape, Where(options.device, options.rpc), log)


def _failed(reason: str) -> int:
    print(reason, file=sys.stderr)
    return 1
