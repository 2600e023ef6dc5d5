"""Measures one item in a process of its own: `python3 -m gpucheck measure ...`.

What is timed are the product's own parts: its shelf of weights, its contexts and chunks.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from gpucheck.costs.found import Costs, Cycle, Resume
from gpucheck.machine import smi_used_bytes
from gpucheck.result import Freed, Library, Stage
from gpucheck.shapes import Shape
from repertory.domain.readings import LinkReading, StepReading
from repertory.domain.specs import KvShape, ModelSpec, Placement
from repertory.engines.gguf.files import describe_file
from repertory.engines.llamacpp import CHUNK_TOKENS, library
from repertory.engines.llamacpp.context import Context, ContextOptions, Logits
from repertory.engines.llamacpp.library import Accelerator
from repertory.engines.llamacpp.weights import (
    Shelf,
    Shelved,
    drop_from_host,
    read_into_host,
    resident_share,
    taken_bytes,
)

__all__ = [
    "TOLERANCE_BYTES",
    "Taken",
    "Wrong",
    "checked",
    "describe_library",
    "find_accelerator",
    "measure_ladder",
    "measure_layers",
    "prefill",
    "some_tokens",
    "spec_of",
    "threads_for",
    "timed",
]

_FIRST_TOLERANCE_BYTES = {"ggml": 512 << 20, "nvidia-smi": 512 << 20, "kernel": 64 << 20}
"""After the first unload of a process: kernels that CUDA loads when they are first called, and
what cuBLAS and the C library keep for next time, stay with the process."""
TOLERANCE_BYTES = 32 << 20
"""After every later unload: nothing is left to be loaded once."""
_ROWS_APART = 0.05
"""Share of the largest logit by which slots with one and the same sequence may differ: rounding
differs with the place in a batch, a damaged KV would change everything."""
_KV_SAVES = 5


T = TypeVar("T")


class Wrong(Exception):
    """What was computed cannot be right, so its speed means nothing."""


@dataclass
class Taken:
    """What one process measures, as it goes."""

    stages: list[Stage] = field(default_factory=list)
    freed: list[Freed] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    steps: list[StepReading] = field(default_factory=list)
    cycles: list[Cycle] = field(default_factory=list)
    links: list[LinkReading] = field(default_factory=list)
    resumes: list[Resume] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def costs(self) -> Costs:
        return Costs(self.steps, self.cycles, self.links, self.resumes, self.notes)

    def note(
        self, name: str, seconds: float, moved_bytes: int | None = None, tokens: int | None = None
    ) -> None:
        self.stages.append(Stage.of(name, seconds, moved_bytes, tokens))


def find_accelerator(device: str, rpc: str | None = None) -> Accelerator | None:
    """The device to measure; None for the CPU.  `Wrong` if the library offers no such device."""
    found = library.accelerators([] if rpc is None else [rpc])
    if device == "cpu":
        return None
    for one in found:
        if one.backend == device:
            return one
    offered = ", ".join(one.backend for one in found) or "only the CPU"
    raise Wrong(f"the library offers {offered}, no {device}: is the driver there, and visible?")


def describe_library(accelerator: Accelerator | None) -> Library:
    if accelerator is None:
        return Library(library.build_name(), "cpu", "cpu", None)
    return Library(
        library.build_name(), accelerator.backend, accelerator.name, accelerator.memory_bytes
    )


def spec_of(path: Path) -> ModelSpec:
    """The model as the product would describe it."""
    facts = describe_file(path)
    return ModelSpec(
        name=path.stem,
        digest=facts.digest,
        location=str(path),
        weights_bytes=facts.weights_bytes,
        layers=facts.layers,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        context_tokens=facts.trained_context_tokens,
        buffers_bytes=facts.buffers_bytes,
    )


def measure_ladder(path: Path, shape: Shape, accelerator: Accelerator | None) -> Taken:
    """DISK, HOST, DEVICE, SERVING and back, twice; the first time with work in between."""
    taken = Taken()
    spec = spec_of(path)
    drop_from_host(path)
    on_disk_bytes = round(path.stat().st_size * (1 - resident_share(path)))
    if on_disk_bytes:  # a file system in memory has no DISK
        seconds, _ = timed(lambda: read_into_host(path))
        taken.note("stage", seconds, on_disk_bytes)
    for suffix in ("", "_again"):
        before_bytes = _in_use_bytes(accelerator)
        shelf = Shelf()
        held = _load(shelf, spec, accelerator, taken, f"load{suffix}")
        context = _activate(held, shape, accelerator, taken, suffix)
        if not suffix:
            _work(context, shape, held.model.vocabulary_tokens, taken)
        loaded_bytes = _in_use_bytes(accelerator)
        taken.note(f"free_context{suffix}", timed(context.free)[0])
        taken.note(f"unload{suffix}", timed(partial(shelf.give_back, held))[0])
        after_bytes = _in_use_bytes(accelerator)
        for source, used_bytes in before_bytes.items():
            tolerance_bytes = TOLERANCE_BYTES if suffix else _FIRST_TOLERANCE_BYTES[source]
            found = (used_bytes, loaded_bytes[source], after_bytes[source], tolerance_bytes)
            taken.freed.append(Freed(f"unload{suffix}", source, *found))
    return taken


def _in_use_bytes(accelerator: Accelerator | None) -> dict[str, int]:
    """What is in use where the model goes, by everyone who can tell."""
    if accelerator is None:
        return {"kernel": taken_bytes(None)}
    by_library = {"ggml": taken_bytes(accelerator)}
    by_driver = smi_used_bytes() if accelerator.backend == "cuda" else None
    return by_library if by_driver is None else by_library | {"nvidia-smi": by_driver}


def measure_layers(
    path: Path, layers: int | None, accelerator: Accelerator | None, reference: Path
) -> Taken:
    """Speed with `layers` of the model on the accelerator (None: all; 0: the CPU alone).

    The logits of the prompt are kept in `reference` by the CPU's run, and compared by others.
    """
    taken = Taken()
    spec = spec_of(path)
    there = None if layers == 0 else accelerator
    shelf = Shelf()
    held = _load(shelf, spec, there, taken, "load", layers)
    threads = len(os.sched_getaffinity(0))
    options = ContextOptions(is_exact=False, threads=threads, is_on_cpu=there is None)
    context = Context(held.model, KvShape(1, 256), options)
    taken.figures["threads"] = threads
    taken.figures["layers_there"] = spec.layers if layers is None else layers
    tokens = some_tokens(64 + 1 + 32, held.model.vocabulary_tokens)
    context.prefill(0, tokens[:2], 0, wants_logits=True)  # what is loaded once is not timed
    context.forget(0)
    seconds, row = timed(lambda: context.prefill(0, tokens[:64], 0, wants_logits=True))
    taken.note("prefill", seconds, tokens=64)
    assert row is not None
    _compare(checked(row).copy(), reference, is_reference=layers == 0, taken=taken)
    context.decode([0], [tokens[64]], [64])
    _decode(context, [0], tokens[65:], 65, taken, "decode")
    context.free()
    shelf.give_back(held)
    return taken


def _compare(row: Logits, reference: Path, *, is_reference: bool, taken: Taken) -> None:
    """Another device rounds otherwise; another answer altogether would show here."""
    if is_reference:
        np.save(reference, row)
    elif reference.exists():
        other = np.load(reference)
        difference = np.sqrt(np.mean(np.square(row - other)) / np.mean(np.square(other)))
        taken.figures["logits_difference_to_cpu_rms_share"] = float(difference)
        taken.figures["logits_same_first_choice"] = float(row.argmax() == other.argmax())


def threads_for(accelerator: Accelerator | None) -> int:
    """As the worker has them: an accelerator's steps need one."""
    return 1 if accelerator is not None else len(os.sched_getaffinity(0))


def _load(
    shelf: Shelf,
    spec: ModelSpec,
    accelerator: Accelerator | None,
    taken: Taken,
    name: str,
    layers: int | None = None,
) -> Shelved:
    placement = Placement(("device",), layers=layers or None)
    seconds, held = timed(lambda: shelf.take(spec, placement, accelerator))
    taken.note(name, seconds, held.weights_bytes)
    return held


def _activate(
    held: Shelved, shape: Shape, accelerator: Accelerator | None, taken: Taken, suffix: str
) -> Context:
    before_bytes = taken_bytes(accelerator)
    threads = threads_for(accelerator)
    options = ContextOptions(is_exact=False, threads=threads, is_on_cpu=accelerator is None)
    kv = KvShape(shape.sequences, shape.cells)
    seconds, context = timed(lambda: Context(held.model, kv, options))
    kv_bytes = context.cells_allocated * shape.kv_bytes_per_token
    taken.note(f"context{suffix}", seconds, kv_bytes)
    taken.figures[f"context{suffix}_taken_bytes"] = taken_bytes(accelerator) - before_bytes
    taken.figures[f"context{suffix}_stated_buffers_bytes"] = context.reserved_bytes
    return context


def _work(context: Context, shape: Shape, vocabulary_tokens: int, taken: Taken) -> None:
    """Prefill, decode alone, save and restore one sequence, decode in company."""
    prompt, alone = shape.prompt_tokens, shape.decode_tokens
    tokens = some_tokens(prompt + 2 * alone, vocabulary_tokens)
    # CUDA loads its kernels when they are first called: timed apart.
    first = tokens[:CHUNK_TOKENS]
    taken.note("first_prefill", timed(lambda: prefill(context, first))[0], tokens=len(first))
    context.forget(0)
    context.decode([0], [tokens[0]], [0])
    context.forget(0)
    taken.note("prefill", timed(lambda: prefill(context, tokens[:prompt]))[0], tokens=prompt)
    _decode(context, [0], tokens[prompt : prompt + alone], prompt, taken, "decode_alone")
    saves = [timed(lambda: context.save(0)) for _ in range(_KV_SAVES)]
    saved = saves[-1][1]
    taken.note("kv_save_median", median(one[0] for one in saves), saved.bytes)
    slots = range(shape.sequences)
    restores = [timed(partial(context.restore, slot, saved))[0] for slot in slots[1:]]
    taken.note("kv_restore_median", median(restores), saved.bytes)
    taken.figures["kv_saved_bytes_per_token"] = saved.bytes / (prompt + alone)
    _decode(context, slots, tokens[prompt + alone :], prompt + alone, taken, "decode_company")


def prefill(context: Context, tokens: Sequence[int], position: int = 0) -> Logits:
    """In the product's chunks, into the first slot; the last token's logits."""
    for start in range(0, len(tokens), context.chunk_tokens):
        chunk = tokens[start : start + context.chunk_tokens]
        row = context.prefill(0, chunk, position + start, wants_logits=True)
    assert row is not None
    return checked(row)


def _decode(
    context: Context,
    slots: Sequence[int],
    tokens: list[int],
    position: int,
    taken: Taken,
    name: str,
) -> None:
    """One step for each token, the same in every slot; equal sequences must agree."""
    steps: list[float] = []
    count = len(slots)
    for at, token in enumerate(tokens, start=position):
        step = partial(context.decode, slots, [token] * count, [at] * count)
        seconds, rows = timed(step)
        checked(rows)
        if not steps:
            share = float(np.abs(rows - rows[0]).max() / np.abs(rows[0]).max())
            taken.figures[f"{name}_rows_apart_share"] = share
            if share > _ROWS_APART:
                raise Wrong(f"a restored sequence answers otherwise: logits {share:.0%} apart")
        steps.append(seconds)
    taken.note(name, sum(steps), tokens=count * len(tokens))
    taken.figures[f"{name}_step_median_s"] = median(steps)


def checked(rows: Logits) -> Logits:
    if not np.isfinite(rows).all():
        raise Wrong("logits are not finite")
    if not rows.any():
        raise Wrong("logits are all zero")
    return rows


def some_tokens(count: int, vocabulary_tokens: int) -> list[int]:
    luck = np.random.default_rng(1)
    return [int(one) for one in luck.integers(0, vocabulary_tokens - 1, count)]


def timed(work: Callable[[], T]) -> tuple[float, T]:
    started_ns = time.perf_counter_ns()
    result = work()
    return (time.perf_counter_ns() - started_ns) / 1e9, result
