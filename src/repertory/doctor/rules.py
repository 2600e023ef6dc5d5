"""From readings to findings: each rule says what it saw, why it matters, and what to do."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from repertory.config.memory import MemoryReading
from repertory.doctor.disks import ModelFile, Place
from repertory.doctor.findings import Finding, Level
from repertory.doctor.machine import Machine
from repertory.doctor.probe import LibraryReport
from repertory.domain.specs import ModelSpec
from repertory.live.fit import Room, least_bytes, pinned_misfit, warnings
from repertory.live.log_file import MOST_FILES, ROTATE_BYTES
from repertory.live.options import ServeConfig
from repertory.perf.needs import size_text
from repertory.reports.figures import bytes_text, seconds_text

__all__ = ["Readings", "findings"]

_STATE_BYTES = MOST_FILES * ROTATE_BYTES + (16 << 20)
"""The decision log and a worker's two text logs, at their longest."""
_FEW_FILES = 1024
"""Each connection takes one, each model a few."""
_NETWORKS = frozenset({"9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb3"})
_BUILT_FOR = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "amx_int8": "AMX_INT8",
}
"""The CPU's word for an instruction set, and the library's."""
_FAST_CLOCKS = frozenset({"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"})
"""Read without a system call."""


@dataclass(frozen=True, slots=True)
class Readings:
    """All that was looked at."""

    machine: Machine
    memory: MemoryReading
    library: LibraryReport | str
    """A text says how asking it failed."""
    state: Place
    state_owner: str | None
    """The server that works on the state folder now."""
    address: str
    port_owner: str | None
    """Who listens there now."""
    complaints: tuple[str, ...] = ()
    """What the configuration is refused for."""
    config: ServeConfig | None = None
    room: Room | None = None
    specs: tuple[ModelSpec, ...] = ()
    pinned: tuple[tuple[ModelSpec, str], ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    files: tuple[ModelFile, ...] = ()


def findings(seen: Readings) -> tuple[Finding, ...]:
    """Of all rules, the worst first, in the order of the rules."""
    found = [finding for rule in _RULES for finding in rule(seen)]
    order = list(Level)
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def _configuration(seen: Readings) -> Iterator[Finding]:
    for complaint in seen.complaints:
        yield Finding(Level.FAILS, complaint, "mend it; `repertory serve` refuses it too")
    for name, reason in seen.excluded:
        advice = "mend or remove the file; the other models are served"
        yield Finding(Level.FAILS, f"{name} will not be served: {reason}", advice)


def _library(seen: Readings) -> Iterator[Finding]:
    library = seen.library
    if isinstance(library, str):
        yield Finding(
            Level.FAILS,
            f"the compute library {library}",
            "install llama-cpp-python anew (make setup builds it for this machine)",
        )
        return
    lacking = sorted(
        theirs
        for ours, theirs in _BUILT_FOR.items()
        if ours in seen.machine.features and theirs not in library.features
    )
    if lacking:
        yield Finding(
            Level.SLOW,
            f"the library was built without {', '.join(lacking)}, which this CPU has",
            "build it on this machine (GGML_NATIVE=ON, the default)",
        )
    if "OPENMP" not in library.features:
        yield Finding(
            Level.NOTE,
            "the library was built without OpenMP: it uses threads of its own",
            "nothing, unless decoding is slower than you measured elsewhere",
        )
    if seen.machine.gpu_nodes and not library.accelerators:
        nodes = ", ".join(f"/dev/{name}" for name in seen.machine.gpu_nodes)
        yield Finding(
            Level.SLOW,
            f"there is a graphics device ({nodes}), but the library offers none: it was built "
            f"with {', '.join(library.backends)} only, or the driver does not answer",
            "build it for that device, as with CMAKE_ARGS=-DGGML_CUDA=ON make setup",
        )


def _cores(seen: Readings) -> Iterator[Finding]:
    machine = seen.machine
    if machine.cpu_quota is not None and machine.cpu_quota < machine.cores_usable:
        yield Finding(
            Level.SLOW,
            f"the container may use {machine.cpu_quota:g} cores' time, but the engine starts a "
            f"thread on each of {machine.cores_usable}: the kernel stops all of them once the "
            f"time is used up",
            "raise the container's CPU limit, or bind it to whole cores (--cpuset-cpus)",
        )
    if machine.cores_usable < machine.cores_present:
        yield Finding(
            Level.NOTE,
            f"this process may run on {machine.cores_usable} of {machine.cores_present} cores",
            "widen its affinity (taskset, cpuset) if the others are meant for models too",
        )
    if machine.load > machine.cores_usable / 2:
        yield Finding(
            Level.SLOW,
            f"other programs keep {machine.load:.1f} of {machine.cores_usable} cores busy: a step "
            f"waits for the slowest of its threads",
            "end them, or give models a core set of their own ('devices')",
        )
    if machine.clock_source and machine.clock_source not in _FAST_CLOCKS:
        yield Finding(
            Level.NOTE,
            f"the clock source is {machine.clock_source}: every look at the clock is a system call",
            "let the kernel use tsc, if this machine's is stable",
        )


def _memory(seen: Readings) -> Iterator[Finding]:
    machine = seen.machine
    if machine.swap_used_bytes > 0:
        yield Finding(
            Level.SLOW,
            f"{bytes_text(machine.swap_used_bytes)} of swap are in use: weights or KV memory that "
            f"were swapped out come back at the speed of the disk",
            "free memory, give 'memory' less, or turn swap off for the server (memory.swap.max=0)",
        )
    if machine.overcommit == 2:
        yield Finding(
            Level.NOTE,
            "the kernel promises no more memory than there is (vm.overcommit_memory=2): loads may "
            "be refused although memory is free",
            "set vm.overcommit_memory to 0 if loads fail",
        )
    if machine.huge_pages == "never":
        yield Finding(
            Level.NOTE,
            "transparent huge pages are off: KV memory and repacked weights lie in 4 KiB pages",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )


def _room(seen: Readings) -> Iterator[Finding]:
    """What fits, what fits together, and what every change of models costs."""
    room, pinned = seen.room, dict(seen.pinned)
    if room is None:
        return
    misfit = pinned_misfit(pinned, room)
    if misfit is not None:
        yield Finding(Level.FAILS, misfit, "`repertory serve` refuses it too")
    misfits = warnings(seen.specs, pinned, room)
    for words in misfits:
        yield Finding(Level.FAILS, words, "the other models are served")
    sizes = sorted(((least_bytes(spec), spec.name) for spec in seen.specs), reverse=True)
    if misfits or misfit or len(sizes) < 2:
        return
    total = sum(size for size, _ in sizes)
    (first, one), (second, other) = sizes[:2]
    if first + second > room.total_bytes:
        yield Finding(
            Level.SLOW,
            f"{one} ({size_text(first)}) and {other} ({size_text(second)}) do not fit together "
            f"into {room.text()}: whenever the one is asked for after the other, it is loaded",
            f"give {size_text(first + second - room.total_bytes)} more memory, or favour "
            f"throughput, so that a model goes on longer",
        )
    elif total > room.total_bytes:
        yield Finding(
            Level.NOTE,
            f"all {len(sizes)} models together take at least {size_text(total)}, and there are "
            f"{room.text()}: some are loaded when they are asked for",
            "pin those that must never wait; `repertory why NAME` tells what was evicted and why",
        )


def _files(seen: Readings) -> Iterator[Finding]:
    for file in seen.files:
        if file.refusal is not None:
            what = f"{file.path}: cannot be read: {file.refusal}"
            yield Finding(Level.FAILS, what, "let the server's user read it")
        kind = file.file_system
        if kind in _NETWORKS or kind.startswith("fuse"):
            yield Finding(
                Level.SLOW,
                f"{file.name} lies on a {kind} file system: it is mapped, so weights that leave "
                f"memory come back over it",
                f"copy {file.path.name} to a local disk",
            )
        elif kind == "overlay":
            yield Finding(
                Level.NOTE,
                f"{file.name} lies in a container's own layers (overlay)",
                "mount the models as a volume, so that they outlive the container",
            )
    yield from _formats(seen)


def _formats(seen: Readings) -> Iterator[Finding]:
    library = seen.library
    if isinstance(library, str):
        return
    is_exact = seen.config is not None and seen.config.is_exact
    quarters = [file for file in seen.files if file.formats.get("q4_0")]
    plain = [
        file.name
        for file in quarters
        if is_exact or not file.repacked_bytes or "REPACK" not in library.features
    ]
    if plain and not library.accelerators:
        why = "in the mode exact" if is_exact else "for this CPU by this library"
        yield Finding(
            Level.SLOW,
            f"{', '.join(plain)}: q4_0 weights are not repacked {why} (measured elsewhere: prefill "
            f"124 instead of 280 tokens/s for a 1.1B)",
            "use q8_0, or a library with REPACK on a CPU with AVX2 or NEON, without 'exact'",
        )
    halves = [file.name for file in seen.files if file.formats.get("f16", 0) * 2 > file.size_bytes]
    if is_exact and halves and "LLAMAFILE" in library.features:
        yield Finding(
            Level.NOTE,
            f"{', '.join(halves)}: f16 weights are not exact in the mode exact, since this library "
            f"was built with LLAMAFILE kernels",
            "use q8_0, or build the library with -DGGML_LLAMAFILE=OFF",
        )
    wide = [file.name for file in seen.files if file.vocabulary_tokens >= 32_000]
    if wide:
        yield Finding(
            Level.NOTE,
            f"{', '.join(wide)}: requests with top_p and without top_k sort a vocabulary of 32,000 "
            f"tokens or more (measured elsewhere: 0.4 ms per token)",
            "let clients send top_k too, 40 for instance",
        )


def _cold(seen: Readings) -> Iterator[Finding]:
    """What the first load reads from the disk, where its rate is known."""
    if isinstance(seen.library, str):
        return
    for file in seen.files:
        cold_bytes = file.size_bytes * (1 - seen.library.resident.get(str(file.path), 1.0))
        if file.bytes_per_s is None or cold_bytes / file.bytes_per_s < 1.0:
            continue
        yield Finding(
            Level.SLOW,
            f"{file.name}: {bytes_text(round(cold_bytes))} of it are not in the page cache, and "
            f"its disk reads {bytes_text(round(file.bytes_per_s))} a second: its first load takes "
            f"about {seconds_text(cold_bytes / file.bytes_per_s)} for that alone",
            f"read it before it is needed (cat {file.path} > /dev/null), or use a faster disk",
        )


def _limits(seen: Readings) -> Iterator[Finding]:
    if seen.machine.open_files < _FEW_FILES:
        yield Finding(
            Level.NOTE,
            f"at most {seen.machine.open_files} files and connections may be open (ulimit -n)",
            f"raise the limit to {_FEW_FILES} or more where many clients stream at once",
        )
    state = seen.state
    if state.refusal is not None:
        yield Finding(
            Level.FAILS,
            f"state cannot be kept in {state.path}: {state.nearest}: {state.refusal}",
            "give the server another folder with --state-dir, or this user the right to write",
        )
    elif state.free_bytes < _STATE_BYTES:
        yield Finding(
            Level.NOTE,
            f"{bytes_text(state.free_bytes)} are free for {state.path}; logs may take "
            f"{bytes_text(_STATE_BYTES)}, and what does not fit is missing from them",
            "make room, or choose another --state-dir",
        )


def _others(seen: Readings) -> Iterator[Finding]:
    if seen.state_owner is not None:
        yield Finding(
            Level.FAILS,
            f"the server with process id {seen.state_owner} works on {seen.state.path}",
            "stop it, or give another one its own --state-dir",
        )
    if seen.port_owner is not None:
        yield Finding(
            Level.FAILS,
            f"{seen.address} is taken: {seen.port_owner} listens there",
            "stop it, or choose another --port",
        )


_RULES: Sequence[Callable[[Readings], Iterator[Finding]]] = (
    _configuration,
    _library,
    _others,
    _room,
    _files,
    _cold,
    _cores,
    _memory,
    _limits,
)
