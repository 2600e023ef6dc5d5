"""From a folder, a file or a YAML, and the flags, to a complete `ServeConfig`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repertory.config.environment import Environment
from repertory.config.file import FileConfig, read_file
from repertory.config.keys import DEFAULT_HOST, DEFAULT_PORT
from repertory.config.memory import MemoryReading, default_budget, most_memory
from repertory.domain.errors import ConfigError
from repertory.domain.settings import Favour
from repertory.live.options import ModelChoice, ServeConfig
from repertory.reports.figures import bytes_text

__all__ = ["Flags", "Found", "is_yaml", "serve_config"]


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says.  None: nothing."""

    host: str | None = None
    port: int | None = None
    memory_bytes: int | None = None
    state_dir: Path | None = None
    is_exact: bool | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds."""

    models: tuple[ModelChoice, ...]
    excluded: tuple[str, ...]
    """Files that are no models, each with its reason."""


def serve_config(
    source: Path,
    flags: Flags,
    environment: Environment,
    reading: MemoryReading,
    discover: Callable[[Path], Found],
) -> ServeConfig:
    """`source` is a folder of models, one model, or a YAML file."""
    source = source.expanduser().absolute()
    file, folders = _wanted(source, discover)
    budget_bytes, story = _memory(flags, file, reading)
    _check_devices(file, budget_bytes)
    config = ServeConfig(
        models=file.models,
        folders=folders,
        devices=file.devices,
        memory_bytes=budget_bytes,
        memory_story=story,
        host_memory_bytes=file.host_memory_bytes,
        favour=file.favour or Favour.BALANCED,
        host=flags.host or environment.host or file.host or DEFAULT_HOST,
        port=_first((flags.port, environment.port, file.port), DEFAULT_PORT),
        state_dir=(
            flags.state_dir
            or environment.state_dir
            or file.state_dir
            or environment.default_state_dir
        )
        .expanduser()
        .absolute(),
        is_exact=bool(file.is_exact if flags.is_exact is None else flags.is_exact),
        saved_kv_disk_bytes=file.saved_kv_disk_bytes or 0,
        rpc=file.rpc,
    )
    _check_disk(file, config)
    return config


def is_yaml(source: Path) -> bool:
    return source.suffix.lower() in (".yaml", ".yml")


def _wanted(source: Path, discover: Callable[[Path], Found]) -> tuple[FileConfig, tuple[Path, ...]]:
    if not source.exists():
        raise ConfigError(f"{source}: there is no such file or folder")
    if is_yaml(source):
        return read_file(source), ()
    if not source.is_dir():
        if source.suffix.lower() != ".gguf":
            raise ConfigError(f"{source}: neither a folder, nor a .gguf file, nor a .yaml file")
        return FileConfig(models=(ModelChoice(source.stem, source),)), ()
    found = discover(source)
    if not found.models:
        reasons = "".join(f"\n  {each}" for each in found.excluded)
        raise ConfigError(
            f"{source}: no GGUF model in here; put one there, or make one for a try: "
            f"repertory models make --out {source / 'try.gguf'}{reasons}"
        )
    return FileConfig(models=found.models), (source,)


def _memory(flags: Flags, file: FileConfig, reading: MemoryReading) -> tuple[int, str]:
    given_bytes = flags.memory_bytes or file.memory_bytes
    if given_bytes is None:
        budget = default_budget(reading)
        return budget.bytes, budget.story
    most = most_memory(reading)
    if given_bytes > most.bytes:
        place = "--memory" if flags.memory_bytes else f"{file.places['memory']}: 'memory'"
        raise ConfigError(
            f"{place} {bytes_text(given_bytes)} is more than there is, {most.story}; "
            f"give less, or leave it out to take what is free at the start"
        )
    story = f"{bytes_text(given_bytes)} (given)"
    try:
        here = default_budget(reading)
    except ConfigError:
        return given_bytes, f"{story}; none is free now"
    if here.bytes < given_bytes:
        story += f"; only {here.story} is free now"
    return given_bytes, story


def _check_devices(file: FileConfig, budget_bytes: int) -> None:
    """Core sets and host memory are one and the same RAM; a GPU's memory is its own."""
    terms = [
        (f"{device.id} {bytes_text(device.memory_bytes)}", device.memory_bytes)
        for device in file.devices or ()
        if device.cores and device.memory_bytes is not None
    ]
    if file.host_memory_bytes is not None:
        terms.append((f"host_memory {bytes_text(file.host_memory_bytes)}", file.host_memory_bytes))
    total_bytes = sum(size for _, size in terms)
    if total_bytes > budget_bytes:
        sum_text = " + ".join(text for text, _ in terms)
        first = file.places.get("devices") or file.places.get("host_memory")
        place = f"{first}: " if first else ""
        raise ConfigError(
            f"{place}{sum_text} = {bytes_text(total_bytes)} is more than the memory of "
            f"{bytes_text(budget_bytes)}; lower them, or raise 'memory'"
        )


def _check_disk(file: FileConfig, config: ServeConfig) -> None:
    """What goes to the disk, and comes from there, goes through main memory."""
    if config.saved_kv_disk_bytes and not config.saved_kv_bytes:
        place = file.places["saved_kv_disk"]
        raise ConfigError(
            f"{place}: 'saved_kv_disk' needs main memory to go through, and there is none for it; "
            f"give 'host_memory', as much as the longest conversation takes"
        )


def _first(choices: Sequence[int | None], otherwise: int) -> int:
    """The first that is given: 0 is a port too."""
    return next((choice for choice in choices if choice is not None), otherwise)
