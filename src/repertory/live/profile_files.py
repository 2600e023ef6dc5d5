"""Profile files: what `repertory profile` has measured, read and written; one for each model,
machine and mode.

    STATE_DIR/profiles/NAME-DIGEST-MACHINE.json

A file that cannot be used is named with the reason, and never an error: then the model is served
by what is guessed, as one that was never measured.  `docs/profile.md` has every field.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import msgspec
import psutil

from repertory.domain.readings import DeviceReadings, Identity, Readings
from repertory.domain.specs import DeviceSpec
from repertory.engines.llamacpp.build import engine_build

__all__ = [
    "FORMAT",
    "ProfileFile",
    "Profiles",
    "Refused",
    "file_of",
    "identity_of",
    "profiles_folder",
    "read_file",
    "read_profiles",
    "readings_on",
    "staleness",
    "write_file",
]

FORMAT = 1
_NAMES = {
    "digest": "of another file",
    "engine_build": "by another engine build",
    "machine": "on another machine",
    "driver": "with another driver",
    "is_exact": "in another mode",
}
"""Of `Identity`: how a reason for refusal begins."""


@dataclass(frozen=True, slots=True)
class ProfileFile:
    """The whole of a file."""

    format: int
    done: tuple[str, ...]
    """Measurements that are complete, by name: what is left is measured when it is run again."""
    readings: Readings


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Profiles:
    """What a folder holds for this machine, engine and mode."""

    readings: Mapping[str, Readings]
    """By the digest of the model's file."""
    refused: tuple[Refused, ...]
    replaced: tuple[Refused, ...] = ()
    """Of another version of a file that is on offer; none of these is among `refused`."""


def profiles_folder(state_dir: Path) -> Path:
    return state_dir / "profiles"


def identity_of(digest: str, *, is_exact: bool) -> Identity:
    """What readings taken here and now hold for."""
    return Identity(digest, engine_build(), _machine(), _driver(), is_exact)


def file_of(folder: Path, model: str, identity: Identity) -> Path:
    """Where a model's readings belong.

    Another machine's and another mode's lie beside it; another engine build's are replaced.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", model)[:80].strip(".") or "model"
    where = hashlib.sha256(identity.machine.encode()).hexdigest()[:6]
    mode = "-exact" if identity.is_exact else ""
    return folder / f"{plain}-{identity.digest[:12]}-{where}{mode}.json"


def read_profiles(
    folder: Path, here: Identity, offered: Mapping[str, str] | None = None
) -> Profiles:
    """All that may be used by whoever is `here`; its digest does not count.

    What was measured in the other mode lies beside it, and is passed over.  `offered`: digests of
    the files that are served, by the name of the model; None: nobody knows of any.
    """
    found: dict[str, ProfileFile] = {}
    refused: list[Refused] = []
    replaced: list[Refused] = []
    for path in sorted(folder.glob("*.json")):
        read = read_file(path)
        if isinstance(read, Refused):
            refused.append(read)
            continue
        identity = read.readings.identity
        if identity.is_exact != here.is_exact:
            continue
        version = _version(read.readings, offered or {})
        if version is not None:
            replaced.append(Refused(path, version))
            continue
        reason = staleness(identity, replace(here, digest=identity.digest))
        if reason is not None:
            refused.append(Refused(path, reason))
            continue
        other = found.get(identity.digest)
        if other is None or len(other.done) < len(read.done):
            found[identity.digest] = read
    readings = {digest: one.readings for digest, one in found.items()}
    return Profiles(readings, tuple(refused), tuple(replaced))


def _version(readings: Readings, offered: Mapping[str, str]) -> str | None:
    """Why it holds for no file on offer, though for one of that name; None: it may hold.

    A file that was renamed is the one that was measured: its digest says so.
    """
    made, name = readings.identity.digest, readings.model
    now = offered.get(name)
    if now is None or made in offered.values():
        return None
    return (
        f"made of another version of {name} (file {made[:12]}, here {now[:12]}): the file was "
        f"replaced after it was measured; `repertory profile {name}` measures the one that is "
        "there now, and this profile may be deleted unless the old file comes back"
    )


def staleness(made: Identity, here: Identity) -> str | None:
    """What differs, in words; None if readings made there hold here."""
    differing = [
        f"made {words}: {getattr(made, name) or 'none'!s}, here {getattr(here, name) or 'none'!s}"
        for name, words in _NAMES.items()
        if name != "is_exact" and getattr(made, name) != getattr(here, name)
    ]
    if made.is_exact != here.is_exact:
        differing.append("made in mode " + ("exact, not by default" if made.is_exact else "fast"))
    return "; ".join(differing) or None


def readings_on(readings: Readings, device: DeviceSpec) -> DeviceReadings | None:
    """What was read on that very device; None: nothing, or on one of that name that was another,
    of other cores or another backend.
    """
    wanted = (device.id, device.backend, device.cores)
    known = ((one.device, one.backend, one.cores) for one in readings.devices)
    return next(
        (one for one, at in zip(readings.devices, known, strict=True) if at == wanted), None
    )


def read_file(path: Path) -> ProfileFile | Refused:
    """A file, or why it is none."""
    try:
        text = path.read_bytes()
    except OSError as error:
        return Refused(path, f"cannot be read: {error.strerror}")
    try:
        version = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("format")
        if version is not None and bytes(version) != str(FORMAT).encode():
            theirs = bytes(version)[:20].decode("utf-8", "replace")
            return Refused(path, f"is of format {theirs}; this program reads {FORMAT}")
        read = msgspec.json.decode(text, type=ProfileFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Refused(path, f"is no profile: {error}")
    fault = _fault_of(read.readings)
    return read if fault is None else Refused(path, f"is no profile: {fault}")


def write_file(path: Path, file: ProfileFile) -> None:
    """Whole or not at all, also when this process is killed in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as target:
            target.write(msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
            target.flush()
            os.fsync(target.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


_POSITIVE = re.compile(
    r"readings\.(layers|weights_bytes)"
    r"|.*\.(seconds\[\d+\]|tokens|batch|size_bytes|weights_bytes)"
    r"|.*\.opens\[\d+\]\.(sequences|cells|kv_bytes)"
    r"|.*\.kv\[\d+\]\.(out_s|in_s)\[\d+\]"
)
"""What laws divide by."""
_REPEATED = re.compile(r".*\.seconds|.*\.kv\[\d+\]\.(out_s|in_s)|.*\.(alone_s|together_s)")


def _fault_of(value: object, name: str = "readings") -> str | None:
    """What no measurement gives: no repeat, no time, less than nothing, more than all."""
    if is_dataclass(value):
        inner = [(f"{name}.{one.name}", getattr(value, one.name)) for one in fields(value)]
        return _first(_fault_of, inner)
    if isinstance(value, tuple):
        if not value and _REPEATED.fullmatch(name):
            return f"{name} is empty"
        return _first(_fault_of, [(f"{name}[{at}]", one) for at, one in enumerate(value)])
    if isinstance(value, int | float) and not isinstance(value, bool):
        least_is_more = value == 0 and _POSITIVE.fullmatch(name)
        if value < 0 or least_is_more or (name.endswith(".share") and value > 1):
            return f"{name} is {value}"
    return None


def _first(
    fault_of: Callable[[object, str], str | None], inner: Sequence[tuple[str, object]]
) -> str | None:
    found = (fault_of(value, name) for name, value in inner)
    return next((one for one in found if one is not None), None)


def _machine() -> str:
    """Its processor, how many of them this process may use, and its memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    return f"{_processor()}, {cores} cores, {memory_gib} GiB"


def _processor() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return os.uname().machine


def _driver() -> str:
    """NVIDIA's own line; other drivers come with the kernel."""
    lines = _lines(Path("/proc/driver/nvidia/version"))
    return " ".join(lines[0].split()) if lines else ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
