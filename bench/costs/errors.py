"""How far predictions are off, at points that the laws have not seen.

A coarse profile is what the laws are fitted to.  A whole one, made after it by another worker, is
what they are held against: every size, batch and context that the coarse one lacks, and all loads
and bytes again.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.checks import Check, at_most
from bench.serve.models import folder_of
from bench.serve.run import Run
from repertory.domain.ladder import Rung
from repertory.domain.readings import DeviceReadings, Readings, StepReading, typical_s
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec
from repertory.perf.bytes import kv_bytes
from repertory.perf.fit import held_from, profile_from
from repertory.perf.profiles import Profile, prior_profile

__all__ = ["errors"]

_MODELS = ("50m-a", "300m-a")
_BARS = {"load": 0.10, "decode": 0.08, "prefill": 0.08, "kv": 0.15, "memory": 0.05}
_COARSE_S = 180.0
"""A coarse profile of one model takes no longer."""


def errors(run: Run) -> list[Check]:
    folder = folder_of(_MODELS, run.root, run.say)
    coarse_dir, whole_dir = run.state_dir(), run.state_dir()
    checks = []
    for name in _MODELS:
        began_s = time.monotonic()
        _profile(folder, name, coarse_dir, "--quick")
        took_s = time.monotonic() - began_s
        run.say(f"{name}: coarse profile in {took_s:.0f} s")
        checks.append(at_most(f"coarse profile, {name}", "s", took_s, _COARSE_S))
        began_s = time.monotonic()
        _profile(folder, name, whole_dir)
        run.say(f"{name}: whole profile in {time.monotonic() - began_s:.0f} s")
    found: dict[str, list[float]] = {kind: [] for kind in _BARS}
    for name in _MODELS:
        for kind, error in _errors_of(_read(coarse_dir, name), _read(whole_dir, name)):
            found[kind].append(error)
    run.keep("errors", found)
    for kind, values in found.items():
        if not values:
            raise RuntimeError(f"{kind}: nothing to hold a prediction against")
        median = statistics.median(values)
        run.say(f"{kind}: median error {100 * median:.1f} % of {len(values)}")
        checks.append(at_most(f"prediction error, {kind}: median", "", median, _BARS[kind]))
    return checks


def _profile(folder: Path, name: str, state_dir: Path, *flags: str) -> None:
    command = [sys.executable, "-m", "repertory", "profile", name, "--source", str(folder)]
    command += ["--state-dir", str(state_dir), "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise RuntimeError(f"repertory profile {name}: {done.stderr[-2000:]}")


def _read(state_dir: Path, name: str) -> Readings:
    (path,) = (state_dir / "profiles").glob(f"{name}-*.json")
    return msgspec.convert(json.loads(path.read_bytes())["readings"], Readings)


def _errors_of(coarse: Readings, whole: Readings) -> Iterator[tuple[str, float]]:
    for known, read in zip(coarse.devices, whole.devices, strict=True):
        assert known.device == read.device
        device = DeviceSpec(read.device, 0, read.cores, read.backend)
        prior = prior_profile(_spec(coarse), device)
        profile = profile_from(prior, known, coarse.weights_bytes)
        yield from _of_moves(profile, known, read, coarse.weights_bytes)
        yield from _of_memory(_spec(coarse), known, read)
        seen = {_point(one) for one in known.steps}
        for one in read.steps:
            if _point(one) not in seen:
                kind = "decode" if one.decode else "prefill"
                yield kind, abs(_step_s(profile, one) / typical_s(one.seconds) - 1.0)


def _spec(readings: Readings) -> ModelSpec:
    return ModelSpec(
        name=readings.model,
        digest=readings.identity.digest,
        location="",
        weights_bytes=readings.weights_bytes,
        layers=readings.layers,
        kv_bytes_per_token=readings.kv_bytes_per_token,
        context_tokens=8192,
        buffers_bytes=0,
        head_bytes=readings.head_bytes,
        repacked_bytes=readings.repacked_bytes,
    )


def _of_moves(
    profile: Profile, known: DeviceReadings, read: DeviceReadings, weights_bytes: int
) -> Iterator[tuple[str, float]]:
    for load in read.loads:
        predicted_s = profile.load_s(load.form, load.source, weights_bytes, load.share)
        yield "load", abs(predicted_s / typical_s(load.seconds) - 1.0)
    sizes = {one.tokens for one in known.kv}
    for one in read.kv:
        if one.tokens not in sizes:
            yield "kv", abs(profile.kv_out.seconds(one.size_bytes) / typical_s(one.out_s) - 1.0)
            yield "kv", abs(profile.kv_in.seconds(one.size_bytes) / typical_s(one.in_s) - 1.0)


def _of_memory(
    spec: ModelSpec, known: DeviceReadings, read: DeviceReadings
) -> Iterator[tuple[str, float]]:
    """As the ledger reserves it: weights and buffers as they were read, KV by its shape."""
    held = held_from(spec, known)
    for one in read.memory:
        predicted = held.weights_bytes[one.form]
        if one.rung is Rung.SERVING:
            predicted += held.buffers_bytes + kv_bytes(spec, KvShape(one.sequences, one.cells))
        yield "memory", abs(predicted / one.measured_bytes - 1.0)


def _point(one: StepReading) -> tuple[object, ...]:
    """Contexts that are a few tokens apart are the same."""
    return one.decode, one.form, one.layers, one.tokens, round(one.context_tokens / 100)


def _step_s(profile: Profile, one: StepReading) -> float:
    if one.decode:
        context = one.tokens * one.context_tokens
        return profile.decode_s(one.form, one.tokens, context, one.share)
    return profile.prefill_s(one.form, one.tokens, one.context_tokens, one.share)
