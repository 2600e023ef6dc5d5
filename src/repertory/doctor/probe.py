"""The compute library, asked in a process of its own: a crash of it is a finding, not ours.

`python -m repertory.doctor.probe FILE...` prints one JSON object.
"""

import ctypes
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

__all__ = ["LibraryReport", "ask_library", "main"]

_BOUND_S = 60.0
_LAST_WORDS = 300


class LibraryReport(msgspec.Struct, frozen=True):
    """What the library says of itself, and how much of each file is in memory already."""

    build: str
    system: str
    """The library's own line of what it was compiled for: `AVX2 = 1 | REPACK = 1`."""
    backends: list[str]
    accelerators: list[tuple[str, str, int]]
    """Name, backend, bytes that are free."""
    maps_files: bool
    resident: dict[str, float]

    @property
    def features(self) -> frozenset[str]:
        """Those that are on."""
        pairs = (part.rpartition(":")[2].split("=") for part in self.system.split("|"))
        return frozenset(pair[0].strip() for pair in pairs if pair[-1].strip() == "1")


def ask_library(
    paths: Sequence[Path], command: Sequence[str] = (sys.executable, "-m", __name__)
) -> LibraryReport | str:
    """What it says; or, in words, how it failed."""
    try:
        done = subprocess.run(
            [*command, *map(str, paths)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_BOUND_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not answer within {_BOUND_S:.0f} s"
    except OSError as error:
        return f"could not be started: {error.strerror}"
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip()[-_LAST_WORDS:]
        how = "signal" if done.returncode < 0 else "exit code"
        return f"died with {how} {abs(done.returncode)}: {words or 'it said nothing'}"
    try:
        return msgspec.json.decode(done.stdout, type=LibraryReport)
    except msgspec.DecodeError:
        return "answered with something else than a report"


def main(arguments: Sequence[str]) -> None:
    from repertory.engines.llamacpp import library
    from repertory.engines.llamacpp.weights import resident_share, shards

    library.start()
    report = LibraryReport(
        build=library.build_name(),
        system=library.api.llama_print_system_info().decode().strip(),
        backends=_backends(library.api._lib),
        accelerators=[
            (each.name, each.backend, each.free_bytes) for each in library.accelerators()
        ],
        maps_files=bool(library.api.llama_supports_mmap()),
        resident=_resident({path: shards(Path(path)) for path in arguments}, resident_share),
    )
    sys.stdout.buffer.write(msgspec.json.encode(report))


def _resident(
    files: Mapping[str, Sequence[Path]], share: Callable[[Path], float]
) -> dict[str, float]:
    sizes = {path: [part.stat().st_size for part in parts] for path, parts in files.items()}
    return {
        path: sum(share(part) * size for part, size in zip(parts, sizes[path], strict=True))
        / max(1, sum(sizes[path]))
        for path, parts in files.items()
    }


def _backends(handle: ctypes.CDLL) -> list[str]:
    count, get, name = (
        getattr(handle, f"ggml_backend_reg_{word}") for word in ("count", "get", "name")
    )
    count.restype, get.restype, name.restype = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p
    get.argtypes, name.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    return [name(get(at)).decode() for at in range(count())]


if __name__ == "__main__":
    main(sys.argv[1:])
