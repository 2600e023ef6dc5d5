"""`repertory.yaml`: parsed at the edge, once, into what was written and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from repertory.config.keys import FILE
from repertory.config.kinds import Placed, Reading
from repertory.config.nodes import Value, read_yaml
from repertory.domain.errors import ConfigError
from repertory.domain.requests import PRIORITIES
from repertory.domain.settings import Favour
from repertory.live.options import DeviceChoice, ModelChoice

__all__ = ["FileConfig", "parse_file", "read_file", "read_text"]

_Fields = dict[str, Placed[Any]]  # Any: each is of the kind that the table says


@dataclass(frozen=True, slots=True)
class FileConfig:
    """None: not written."""

    models: tuple[ModelChoice, ...] = ()
    devices: tuple[DeviceChoice, ...] | None = None
    memory_bytes: int | None = None
    host_memory_bytes: int | None = None
    saved_kv_disk_bytes: int | None = None
    rpc: tuple[str, ...] = ()
    favour: Favour | None = None
    host: str | None = None
    port: int | None = None
    state_dir: Path | None = None
    is_exact: bool | None = None
    places: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Of the top-level keys, for complaints that need the whole configuration."""


def read_file(path: Path) -> FileConfig:
    return parse_file(read_text(path), str(path), path.parent)


def read_text(path: Path) -> str:
    """A configuration's; `ConfigError` if it cannot be read as text."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not valid UTF-8 (byte {error.start})") from None


def parse_file(text: str, source: str, folder: Path) -> FileConfig:
    """`folder`: what relative paths are relative to.  Files that are named must be there.

    All that is wrong is said at once, a line each.
    """
    reading = Reading(folder)
    found = FILE.read(read_yaml(text, source), reading)
    models = _models(found, reading)
    devices, rpc = _devices(found, reading), _rpc(found, reading)
    reading.end()
    favour = _value(found, "favour")
    return FileConfig(
        models=models,
        devices=devices,
        memory_bytes=_value(found, "memory"),
        host_memory_bytes=_value(found, "host_memory"),
        saved_kv_disk_bytes=_value(found, "saved_kv_disk"),
        rpc=rpc,
        favour=None if favour is None else Favour(favour),
        host=_value(found, "host"),
        port=_value(found, "port"),
        state_dir=_value(found, "state_dir"),
        is_exact=_value(found, "exact"),
        places={name: each.at.place for name, each in found.items()},
    )


def _value(found: _Fields, name: str, otherwise: Any = None) -> Any:
    return found[name].value if name in found else otherwise


def _models(found: _Fields, reading: Reading) -> tuple[ModelChoice, ...]:
    entries: dict[str, Placed[_Fields]] = _value(found, "models", {})
    owners: dict[str, Value] = {name: each.at for name, each in entries.items()}
    return tuple(
        _model(name, each, owners, reading)
        for name, each in entries.items()
        if "path" in each.value  # else it was complained about
    )


def _model(
    name: str, entry: Placed[_Fields], owners: dict[str, Value], reading: Reading
) -> ModelChoice:
    found = entry.value
    aliases: list[Placed[str]] = _value(found, "aliases", [])
    places = {"": entry.at.place} | {key: each.at.place for key, each in found.items()}
    return ModelChoice(
        name=name,
        path=found["path"].value,
        aliases=tuple(_taken_once(each, owners, reading, "a name") for each in aliases),
        is_pinned=_value(found, "pin", False),
        is_preloaded=_value(found, "preload", False),
        context_tokens=_value(found, "context"),
        ttl_s=_value(found, "ttl"),
        weight=PRIORITIES[_value(found, "priority", "interactive")],
        places=places,
    )


def _devices(found: _Fields, reading: Reading) -> tuple[DeviceChoice, ...] | None:
    entries: list[Placed[_Fields]] | None = _value(found, "devices")
    if entries is None:
        return None
    ids: dict[str, Value] = {}
    cores: dict[int, Value] = {}
    return tuple(
        DeviceChoice(
            _taken_once(each.value["id"], ids, reading, "a device"),
            _value(each.value, "memory"),
            tuple(
                _taken_once(core, cores, reading, "a core")
                for core in _value(each.value, "cores", [])
            ),
        )
        for each in entries
        if "id" in each.value
    )


def _rpc(found: _Fields, reading: Reading) -> tuple[str, ...]:
    entries: list[Placed[str]] = _value(found, "rpc", [])
    owners: dict[str, Value] = {}
    return tuple(_taken_once(each, owners, reading, "a server") for each in entries)


_Taken = TypeVar("_Taken", str, int)


def _taken_once(
    each: Placed[_Taken], owners: dict[_Taken, Value], reading: Reading, what: str
) -> _Taken:
    """A name or number that only one may have; the first keeps it."""
    owner = owners.setdefault(each.value, each.at)
    if owner is not each.at:
        text = f"is {what} already taken at {owner.place}: {each.value!r}; choose another"
        reading.complain(each.at.wrong(text))
    return each.value
