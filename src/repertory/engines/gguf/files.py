"""Model files: what they are, which bytes they are, and which there are in a folder.

All of it comes from the head of a file; weights are never read, but for the digest's samples.
A model may be several files (`NAME-00001-of-00003.gguf`): its location is the first of them.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repertory.domain.errors import ConfigError, LoadFailed
from repertory.engines.contract import ModelDescription
from repertory.engines.gguf.facts import PROJECTOR, cpu_features, describe_headers
from repertory.engines.gguf.header import Header, read_header

__all__ = [
    "Discovery",
    "ExcludedFile",
    "FileStamp",
    "FoundModel",
    "describe_file",
    "digest_file",
    "discover",
    "stamp_files",
]


def describe_file(
    path: Path | str,
    *,
    batch_tokens: int = 512,
    flash_attention: bool = False,
    features: frozenset[str] | None = None,
) -> ModelDescription:
    """A model's facts, or `LoadFailed` with the reason, for any bytes whatever.

    `buffers_bytes` is for a context of min(trained, 8192) tokens per sequence.  `features` are
    those of the CPU, as `cpu_features` names them; they decide what a repacked load rewrites.
    """
    shards = _shards(Path(path))
    headers = [read_header(shard) for shard in shards]
    try:
        return describe_headers(
            headers,
            _digest(shards, headers),
            batch_tokens=batch_tokens,
            flash_attention=flash_attention,
            features=cpu_features() if features is None else features,
        )
    except LoadFailed as error:
        raise LoadFailed(f"{shards[0].name}: {error}") from None


def digest_file(path: Path | str) -> str:
    """A name for the bytes of a model: SHA-256 over head, size and 16 samples of each file.

    A name and no seal: who edits weights between the samples keeps the digest.
    """
    shards = _shards(Path(path))
    return _digest(shards, [read_header(shard) for shard in shards])


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Changes when a file is replaced or written to.  Compare before loading by a description."""

    name: str
    inode: int
    modified_ns: int
    size_bytes: int


def stamp_files(path: Path | str) -> tuple[FileStamp, ...]:
    """The stamps of a model's files."""
    shards = _shards(Path(path))
    try:
        states = [(shard.name, shard.stat()) for shard in shards]
    except OSError as error:
        raise LoadFailed(f"{shards[0].name}: {error.strerror}") from error
    return tuple(
        FileStamp(name, state.st_ino, state.st_mtime_ns, state.st_size) for name, state in states
    )


@dataclass(frozen=True, slots=True)
class FoundModel:
    name: str
    location: str
    """What the engine opens: the first file."""
    description: ModelDescription


@dataclass(frozen=True, slots=True)
class ExcludedFile:
    location: str
    reason: str


@dataclass(frozen=True, slots=True)
class Discovery:
    models: tuple[FoundModel, ...]
    """Sorted by name."""
    excluded: tuple[ExcludedFile, ...]
    """Sorted by location."""


def discover(
    folder: Path | str, *, describe: Callable[[Path], ModelDescription] = describe_file
) -> Discovery:
    """All models under a folder, and every GGUF file that is none, with the reason.

    A name is the file's stem.  Where several have it, each is named by its folder too, and where
    even that is not enough, by the whole file name; so names depend on which files there are and
    on nothing else.  Hidden files and folders are passed over.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; name one that holds GGUF files")
    excluded: list[ExcludedFile] = []
    firsts = _first_files(root, excluded)
    models: list[FoundModel] = []
    for name, path in zip(_names(root, firsts), firsts, strict=True):
        try:
            if "mmproj" in path.name.lower():
                raise LoadFailed(f"{path.name}: {PROJECTOR}")
            models.append(FoundModel(name, str(path), describe(path)))
        except LoadFailed as error:
            excluded.append(ExcludedFile(str(path), str(error)))
    return Discovery(
        tuple(sorted(models, key=lambda model: model.name)),
        tuple(sorted(excluded, key=lambda one: one.location)),
    )


# Files and shards.

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


def _shards(path: Path) -> list[Path]:
    """All files of the model that `path` is, or is part of, the first one first."""
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    stem, suffix, count = match["stem"], path.suffix, int(match["count"])
    if not 1 <= int(match["number"]) <= count:
        raise LoadFailed(f"{path.name}: no such part of {count}")
    parts = [path.with_name(f"{stem}-{n:05}-of-{count:05}{suffix}") for n in range(1, count + 1)]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise LoadFailed(
            f"{path.name}: of its {count} parts, {', '.join(missing[:3])}{more} missing"
        )
    return parts


def _first_files(root: Path, excluded: list[ExcludedFile]) -> list[Path]:
    """One path per model, sorted.  A later shard stands in where the first is missing."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(_files(root, excluded)):
        match = _SHARD.fullmatch(path.name)
        whole = f"{match['stem']} of {match['count']}" if match else path.name
        found.setdefault((str(path.parent), whole), path)
    return list(found.values())


def _files(root: Path, excluded: list[ExcludedFile]) -> Iterator[Path]:
    """GGUF files below; links to folders are followed once, so a loop ends."""

    def unreadable(error: OSError) -> None:
        excluded.append(ExcludedFile(str(error.filename), f"{error.strerror}"))

    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(root, onerror=unreadable, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            below.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in files:
            if name.lower().endswith(".gguf") and not name.startswith("."):
                yield Path(folder, name)


def _names(root: Path, firsts: Sequence[Path]) -> list[str]:
    """The shortest of three names that is the file's own."""
    choices: list[tuple[str, str, str]] = []
    for path in firsts:
        match = _SHARD.fullmatch(path.name)
        stem = match["stem"] if match else path.stem
        folder = path.parent.relative_to(root)
        choices.append((stem, (folder / stem).as_posix(), (folder / path.name).as_posix()))
    counts = [Counter(choice[level] for choice in choices) for level in range(3)]
    taken: set[str] = set()
    names: list[str] = []
    for choice in choices:
        free = (
            name
            for level, name in enumerate(choice)
            if counts[level][name] == 1 and name not in taken
        )
        names.append(next(free, f"./{choice[2]}"))
        taken.add(names[-1])
    return names


_SAMPLES = 16
_SAMPLE_BYTES = 256 * 1024


def _digest(shards: Sequence[Path], headers: Sequence[Header]) -> str:
    total = hashlib.sha256()
    for path, header in zip(shards, headers, strict=True):
        first, last = header.header_bytes, header.file_bytes - _SAMPLE_BYTES
        total.update(header.file_bytes.to_bytes(8, "little"))
        try:
            with open(path, "rb", buffering=0) as file:
                _update(total, file.fileno(), 0, min(first, header.file_bytes))
                if header.file_bytes - first <= _SAMPLES * _SAMPLE_BYTES:
                    _update(total, file.fileno(), first, header.file_bytes - first)
                    continue
                for number in range(_SAMPLES):
                    start = first + (last - first) * number // (_SAMPLES - 1)
                    _update(total, file.fileno(), start, _SAMPLE_BYTES)
        except OSError as error:
            raise LoadFailed(f"{path.name}: {error.strerror}") from error
    return total.hexdigest()


def _update(total: "hashlib._Hash", file: int, start: int, count: int) -> None:
    while count > 0:
        piece = os.pread(file, min(count, 2**20), start)
        if not piece:
            raise LoadFailed("shrank while it was read")
        total.update(piece)
        start, count = start + len(piece), count - len(piece)
