"""What is measured, as data: the JSON of a run, and the table that is printed.

A figure is stored with its unit in its name; GB are 10**9 bytes.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from gpucheck.costs.found import Costs, Resume, Summary
from repertory.domain.readings import LinkReading, typical_s

__all__ = [
    "Freed",
    "Item",
    "Library",
    "Machine",
    "Report",
    "Stage",
    "failures_of",
    "read",
    "table",
    "write",
]


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that was timed once (or the median of several, where its name says so)."""

    name: str
    seconds: float
    bytes: int | None = None
    """What was moved or taken."""
    tokens: int | None = None
    """What was computed."""
    gb_per_s: float | None = None
    tokens_per_s: float | None = None

    @classmethod
    def of(
        cls, name: str, seconds: float, moved_bytes: int | None = None, tokens: int | None = None
    ) -> "Stage":
        """With its rates."""
        return cls(
            name=name,
            seconds=seconds,
            bytes=moved_bytes,
            tokens=tokens,
            gb_per_s=None if moved_bytes is None else moved_bytes / 1e9 / seconds,
            tokens_per_s=None if tokens is None else tokens / seconds,
        )


class Freed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether memory came back."""

    name: str
    source: str
    """ggml (the library's count for the device), kernel (anonymous memory) or nvidia-smi."""
    before_bytes: int
    """In use before the load."""
    loaded_bytes: int | None
    """In use while the model served; None: not seen from here."""
    after_bytes: int
    """In use after the unload."""
    tolerance_bytes: int

    @property
    def kept_bytes(self) -> int:
        return self.after_bytes - self.before_bytes

    @property
    def holds(self) -> bool:
        return self.kept_bytes <= self.tolerance_bytes


class Library(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What computed."""

    build: str
    backend: str
    """cuda, cpu, ..."""
    device: str
    memory_bytes: int | None
    """Of the device; None: the machine's own."""


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run of one process over one model."""

    model: str
    name: str
    """ladder, layers-0, layers-half, layers-all, worker, link, resume, offload-LAYERS or
    preempt-for-MODEL (docs/gpu.md)."""
    stages: list[Stage] = []
    freed: list[Freed] = []
    figures: dict[str, float] = {}
    """What is neither a time nor a size of a stage; the unit is in the name."""
    library: Library | None = None
    failure: str | None = None
    """Why there are no figures."""
    costs: Costs = Costs()
    took_s: float | None = None
    """Its whole process."""


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where it was measured; None is what this machine could not tell."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    gpu: str | None
    driver: str | None
    compute_capability: str | None
    gpu_memory_bytes: int | None
    nvcc: str | None


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`gpu_check-DEVICE.json`: the whole run."""

    is_complete: bool
    missing: list[str]
    """Items (model/name) that are still to be measured."""
    failures: list[str]
    """What went wrong, memory that did not come back included."""
    device: str
    """cuda; or cpu or rpc: a rehearsal."""
    machine: Machine
    built: list[str]
    """How the library was configured; empty if it was handed in."""
    build_seconds: list[float]
    """Of each call that compiled."""
    made: dict[str, Stage]
    """How long each model file took to write."""
    items: list[Item]
    costs: Summary = Summary()
    version: int = 2


def write(path: Path, content: msgspec.Struct) -> None:
    """The file appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    os.replace(unfinished, path)


def failures_of(item: Item) -> list[str]:
    """What went wrong with it; nothing if all is as it should be."""
    found = [item.failure] if item.failure else []
    found += [
        f"{check.kept_bytes / 1e6:.1f} MB did not come back after {check.name}, says "
        f"{check.source} (tolerance {check.tolerance_bytes / 1e6:.1f})"
        for check in item.freed
        if not check.holds
    ]
    for cycle in item.costs.cycles:
        if not cycle.came_back:
            found.append(
                f"{cycle.kept_bytes / 1e6:.1f} MB did not come back at {cycle.point_tokens} tokens"
            )
        if not cycle.goes_on:
            found.append(
                f"went on otherwise at {cycle.point_tokens} tokens: logits "
                f"{cycle.logits_apart_share:.1%} apart"
            )
    found += [
        f"by {resume.way}, {resume.same_tokens} of {resume.tokens} tokens are those of the "
        "undisturbed run"
        for resume in item.costs.resumes
        if not resume.holds
    ]
    return [f"{item.model} {item.name}: {one}" for one in found]


def read(path: Path) -> Item | None:
    """An item's result, if it was measured already."""
    return msgspec.json.decode(path.read_bytes(), type=Item) if path.exists() else None


def table(items: Iterable[Item]) -> str:
    """Every stage on a line."""
    lines = [
        f"{'model':9} {'item':20} {'stage':20} {'seconds':>9} {'GB':>8} {'GB/s':>8} {'tok/s':>9}"
    ]
    for item in items:
        head = f"{item.model:9} {item.name:20}"
        if item.failure is not None:
            lines.append(f"{head} FAILED: {item.failure}")
        for one in item.stages:
            size = None if one.bytes is None else one.bytes / 1e9
            lines.append(
                f"{head} {one.name:20} {one.seconds:9.4f} {_cell(size, 8, 3)} "
                f"{_cell(one.gb_per_s, 8, 2)} {_cell(one.tokens_per_s, 9, 1)}"
            )
        lines += [_link_line(head, link) for link in item.costs.links]
        lines += [_resume_line(head, resume) for resume in item.costs.resumes]
        lines += [f"{head} note: {note}" for note in item.costs.notes]
        for check in item.freed:
            verdict = "given back" if check.holds else "NOT GIVEN BACK"
            lines.append(
                f"{head} {check.name + ' ' + check.source:20} {verdict}: "
                f"{check.kept_bytes / 1e6:+.1f} MB, tolerance {check.tolerance_bytes / 1e6:.1f}"
            )
    return "\n".join(lines)


def _link_line(head: str, link: LinkReading) -> str:
    seconds, size = typical_s(link.seconds), link.size_bytes / 1e9
    name = f"{link.what}, {link.how}"
    return f"{head} {name:31} {seconds:9.4f} {size:8.3f} {size / seconds:8.2f}"


def _resume_line(head: str, resume: Resume) -> str:
    return (
        f"{head} by {resume.way}: {resume.same_tokens} of {resume.tokens} tokens the same, "
        f"log-probabilities up to {resume.logprob_difference_max:.2g} apart "
        f"(mean {resume.logprob_difference_mean:.2g}), after {resume.seconds:.4f} s"
    )


def _cell(value: float | None, width: int, digits: int) -> str:
    return " " * width if value is None else f"{value:{width}.{digits}f}"
