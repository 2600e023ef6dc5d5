"""Measuring a model from its list of items to its file; what is there already is not done again."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repertory.domain.errors import ConfigError, EngineError, WorkerGone
from repertory.domain.readings import (
    ContentionReading,
    CycleReading,
    DeviceReadings,
    Identity,
    KvReading,
    LinkReading,
    LoadReading,
    MemoryReading,
    OpenReading,
    Readings,
    StepReading,
)
from repertory.domain.specs import DeviceSpec
from repertory.live.profile_files import (
    FORMAT,
    ProfileFile,
    Refused,
    read_file,
    staleness,
    write_file,
)
from repertory.profiler.plan import Item, Reading
from repertory.profiler.stand import Stand
from repertory.profiler.subjects import Subject

__all__ = ["Campaign", "CoreTime", "Ended", "begun"]

_log = logging.getLogger(__name__)

_FIELDS: dict[type, str] = {
    LoadReading: "loads",
    OpenReading: "opens",
    StepReading: "steps",
    KvReading: "kv",
    CycleReading: "cycles",
    LinkReading: "links",
    ContentionReading: "contention",
    MemoryReading: "memory",
}


_CROWDED_SHARE = 0.15
"""Waited for a core, of all the time that it wanted one.  Measured on two cores, a 1.1B beside two
other programs: 0.34 to 0.55; prompts read in such company took 24 ms a token, later ones 10."""


@dataclass(frozen=True, slots=True)
class CoreTime:
    """Of all threads that are measured, so far."""

    ran_s: float = 0.0
    waited_s: float = 0.0
    """They were ready, and others had the cores."""

    def waited_share(self, before: "CoreTime") -> float:
        """Since then.  Threads that ended in between took their times along."""
        ran_s = max(0.0, self.ran_s - before.ran_s)
        waited_s = max(0.0, self.waited_s - before.waited_s)
        return waited_s / (ran_s + waited_s) if waited_s else 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """An item is over."""

    item: Item
    trouble: str | None
    """Why there is no reading; None: there is."""


@dataclass(slots=True)
class Campaign:
    """One model, its file, and what is left to do."""

    path: Path
    file: ProfileFile
    left: list[Item]
    stale: str | None
    """Why what the file held before is not used."""
    core_time: Callable[[], CoreTime] = CoreTime
    """Of the worker; nothing, where nobody knows."""

    async def run(self, stand: Stand, told: Callable[[Ended], None]) -> None:
        """Measure what is left; each item is in the file before the next begins.

        What the engine refuses is noted, and tried again by the next run: there may be more
        memory then.  `WorkerGone` ends it.
        """
        for item in list(self.left):
            trouble: str | None = None
            found: tuple[Reading, ...] = ()
            stand.notes.clear()
            before = self.core_time()
            try:
                found = await item.measure(stand)
            except WorkerGone:
                raise
            except EngineError as error:
                trouble = str(error)
                _log.info("%s: %s", item.name, error)
            words = (*stand.notes, trouble, _crowd(self.core_time().waited_share(before)))
            notes = [f"{item.name}: {one}" for one in words if one]
            self.file = _with(self.file, item, found, notes, is_done=trouble is None)
            self._write()
            if trouble is None:
                self.left.remove(item)
            told(Ended(item, trouble))
        await stand.clear()

    def _write(self) -> None:
        try:
            write_file(self.path, self.file)
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot be written: {error.strerror}; make room there, or give "
                "another --state-dir"
            ) from error


def _crowd(waited_share: float) -> str | None:
    if waited_share <= _CROWDED_SHARE:
        return None
    return (
        f"read beside other programs: of the time that it wanted a core it waited "
        f"{100 * waited_share:.0f} %, so its times are too long"
    )


def begun(path: Path, subject: Subject, identity: Identity, items: Sequence[Item]) -> Campaign:
    """With what the file has already, if it holds here."""
    empty = ProfileFile(FORMAT, (), _nothing(subject, identity))
    read = read_file(path) if path.exists() else None
    if read is None:
        return Campaign(path, empty, list(items), None)
    if isinstance(read, Refused):
        return Campaign(path, empty, list(items), read.reason)
    reason = staleness(read.readings.identity, identity)
    if reason is not None:
        return Campaign(path, empty, list(items), reason)
    read, changed = _of_same_devices(read, [item.device for item in items])
    left = [item for item in items if item.name not in read.done]
    return Campaign(path, read, left, changed)


def _nothing(subject: Subject, identity: Identity) -> Readings:
    spec = subject.spec
    return Readings(
        model=spec.name,
        identity=identity,
        layers=spec.layers,
        weights_bytes=spec.weights_bytes,
        repacked_bytes=spec.repacked_bytes,
        head_bytes=spec.head_bytes,
        kv_bytes_per_token=spec.kv_bytes_per_token,
    )


def _of_same_devices(
    file: ProfileFile, devices: Sequence[DeviceSpec]
) -> tuple[ProfileFile, str | None]:
    """Without what was read on a device of that name that was another one."""
    now = {one.id: (one.backend, one.cores) for one in devices}
    gone = {
        one.device: f"{one.device} was {one.backend} with {one.cores} cores"
        for one in file.readings.devices
        if now.get(one.device, (one.backend, one.cores)) != (one.backend, one.cores)
    }
    if not gone:
        return file, None
    kept = tuple(one for one in file.readings.devices if one.device not in gone)
    done = tuple(name for name in file.done if name.partition(":")[0] not in gone)
    readings = replace(file.readings, devices=kept)
    return replace(file, done=done, readings=readings), "; ".join(gone.values())


def _with(
    file: ProfileFile, item: Item, found: Sequence[Reading], notes: list[str], *, is_done: bool
) -> ProfileFile:
    """The file with one more item; what it noted before is replaced."""
    readings = file.readings
    others = tuple(one for one in readings.notes if not one.startswith(f"{item.name}: "))
    devices = {one.device: one for one in readings.devices}
    spec = item.device
    device = devices.get(spec.id) or DeviceReadings(spec.id, spec.backend, spec.cores)
    for reading in found:
        name = _FIELDS[type(reading)]
        more: Any = {name: (*getattr(device, name), reading)}  # its type is that of the field
        device = replace(device, **more)
    devices[spec.id] = device
    return ProfileFile(
        format=FORMAT,
        done=(*file.done, item.name) if is_done else file.done,
        readings=replace(
            readings,
            devices=tuple(devices[name] for name in sorted(devices)),
            notes=(*others, *notes),
        ),
    )
