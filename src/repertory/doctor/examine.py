"""The examination: everything is read here, and judged in `rules`."""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from repertory.config import DEFAULT_HOST, DEFAULT_PORT, Environment, Flags, Found, MemoryReading
from repertory.config import serve_config as whole_config
from repertory.config.memory import default_budget
from repertory.config.ports import listener_of
from repertory.doctor.disks import (
    ModelFile,
    file_system,
    formats_of,
    read_place,
    read_speed,
    refusal,
)
from repertory.doctor.findings import Fact, Report
from repertory.doctor.machine import read_machine
from repertory.doctor.probe import LibraryReport, ask_library
from repertory.doctor.rules import Readings, findings
from repertory.domain.errors import ConfigError, LoadFailed
from repertory.engines.gguf.header import read_header
from repertory.live.catalogue import Catalogue, Look, Offer
from repertory.live.fit import expected_room
from repertory.live.options import ServeConfig
from repertory.reports.figures import bytes_text

__all__ = ["examine"]


def examine(
    source: Path | None,
    flags: Flags,
    environment: Environment,
    memory: MemoryReading,
    discover: Callable[[Path], Found],
) -> Report:
    """Of this machine, and of what would be served from `source`.  Changes nothing."""
    complaints: list[str] = []
    config, look = None, None
    if source is not None:
        try:
            config = whole_config(source, flags, environment, memory, discover)
            look = Catalogue(config.models, config.folders, config.is_exact).look()
            complaints += look.complaints
        except ConfigError as wrong:
            complaints += re.split(r"\n(?! )", str(wrong))
    offers = sorted(look.offers.items()) if look is not None else []
    host = config.host if config else flags.host or environment.host or DEFAULT_HOST
    port = config.port if config else _first(flags.port, environment.port, DEFAULT_PORT)
    folder = flags.state_dir or environment.state_dir or environment.default_state_dir
    state_dir = config.state_dir if config else folder.expanduser().absolute()
    seen = Readings(
        machine=read_machine(),
        memory=memory,
        library=ask_library([Path(offer.spec.location) for _, offer in offers]),
        state=read_place(state_dir),
        state_owner=_owner(state_dir),
        address=f"{host}:{port}",
        port_owner=listener_of(port) if port else None,
        complaints=tuple(complaints),
        config=config,
        room=expected_room(config) if config else None,
        specs=tuple(offer.spec for _, offer in offers),
        pinned=tuple(look.pinned.items()) if look else (),
        excluded=_unserved(look),
        files=tuple(_look_at(offer) for _, offer in offers),
    )
    return Report(tuple(_facts(seen)), findings(seen))


def _first(*choices: int | None) -> int:
    return next((choice for choice in choices if choice is not None), 0)


def _unserved(look: Look | None) -> tuple[tuple[str, str], ...]:
    """Those that are complained about are known by that."""
    if look is None:
        return ()
    excluded = sorted(look.excluded.items())
    return tuple((name, why) for name, why in excluded if why not in look.complaints)


def _look_at(offer: Offer) -> ModelFile:
    path = Path(offer.spec.location)
    try:
        formats = formats_of([read_header(path)])
    except LoadFailed:
        formats = {}  # it went since; `refusal` says why
    problem = refusal(path)
    return ModelFile(
        name=offer.spec.name,
        path=path,
        size_bytes=offer.spec.weights_bytes,
        formats=formats,
        repacked_bytes=offer.spec.repacked_bytes,
        vocabulary_tokens=offer.tokens,
        file_system=file_system(path),
        refusal=problem,
        bytes_per_s=read_speed(path) if problem is None else None,
    )


def _owner(state_dir: Path) -> str | None:
    """The process id of the server that holds the folder."""
    try:
        lock = os.open(state_dir / "server.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(lock)
    return None


def _facts(seen: Readings) -> Iterator[Fact]:
    machine, memory = seen.machine, seen.memory
    usable = f"{machine.cores_usable} of {machine.cores_present} usable"
    quota = f", {machine.cpu_quota:g} cores' time" if machine.cpu_quota is not None else ""
    yield Fact("cpu", "cores", usable + quota)
    simd = sorted(machine.features & {"avx2", "avx512f", "avx512_vnni", "amx_int8", "fma", "asimd"})
    yield Fact("cpu", "instructions", " ".join(simd) or "none that the library has use for")
    yield Fact("cpu", "clock source", machine.clock_source or "unknown")
    yield from _library_facts(seen.library)
    yield Fact(
        "memory",
        "available",
        f"{bytes_text(memory.available_bytes)} of {bytes_text(memory.total_bytes)}",
    )
    for limit in memory.cgroups:
        yield Fact(
            "memory",
            f"container {limit.name}",
            f"{bytes_text(limit.room_bytes)} left of {bytes_text(limit.max_bytes)}",
        )
    yield Fact("memory", "for serving", _budget_text(seen.config, memory))
    if seen.room is not None:
        yield Fact("memory", "for models", seen.room.text())
    yield Fact(
        "memory",
        "swap",
        f"{bytes_text(machine.swap_used_bytes)} used of {bytes_text(machine.swap_bytes)}",
    )
    yield Fact("memory", "huge pages", machine.huge_pages or "unknown")
    locked = "any" if machine.locked_bytes is None else bytes_text(machine.locked_bytes)
    yield Fact("limits", "locked memory", f"{locked} (none is needed)")
    yield Fact("limits", "open files", str(machine.open_files))
    state = seen.state
    free = f"{bytes_text(state.free_bytes)} free, {state.file_system or 'unknown file system'}"
    yield Fact("files", "state folder", f"{state.path} ({free})")
    yield Fact("network", "address", f"{seen.address} ({'taken' if seen.port_owner else 'free'})")
    for file in seen.files:
        yield Fact("models", file.name, _file_text(file, seen.library))


def _library_facts(library: LibraryReport | str) -> Iterator[Fact]:
    if isinstance(library, str):
        yield Fact("library", "llama.cpp", library)
        return
    yield Fact("library", "build", library.build)
    yield Fact("library", "backends", " ".join(library.backends))
    yield Fact("library", "built with", " ".join(sorted(library.features)))
    named = [
        f"{name} ({kind}, {bytes_text(free)} free)" for name, kind, free in library.accelerators
    ]
    yield Fact("library", "accelerators", ", ".join(named) or "none: models compute on the CPU")


def _budget_text(config: ServeConfig | None, memory: MemoryReading) -> str:
    if config is not None:
        return config.memory_story
    try:
        return default_budget(memory).story
    except ConfigError as none:
        return str(none)


def _file_text(file: ModelFile, library: LibraryReport | str) -> str:
    kinds = sorted(file.formats, key=lambda kind: -file.formats[kind])
    text = f"{bytes_text(file.size_bytes)} {kinds[0] if kinds else ''} on {file.file_system or '?'}"
    if isinstance(library, LibraryReport) and str(file.path) in library.resident:
        text += f", {library.resident[str(file.path)]:.0%} in the page cache"
    if file.bytes_per_s is not None:
        text += f", disk {bytes_text(round(file.bytes_per_s))}/s"
    return text
