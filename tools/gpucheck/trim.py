"""Packs what a GPU machine needs of the engine library's source distribution.

`python3 -m gpucheck.trim SDIST.tar.gz OUT.tar.gz [--wheels DIR]`; needs the standard library only.
The pack holds one folder, `engine/`: the kept part of the source distribution, and `wheels/`.
"""

import argparse
import gzip
import io
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

__all__ = ["LIMIT_BYTES", "TooBig", "is_needed", "pack"]

LIMIT_BYTES = 40_000_000
"""The largest pack we promise (issue 3): it has to fit into any tool that carries a work tree."""

_LLAMA = "vendor/llama.cpp"
_NEEDED = (
    "LICENSE.md",
    "PKG-INFO",
    "llama_cpp/",
    f"{_LLAMA}/LICENSE",
    f"{_LLAMA}/CMakeLists.txt",
    f"{_LLAMA}/cmake/",
    f"{_LLAMA}/include/",
    f"{_LLAMA}/licenses/",
    f"{_LLAMA}/src/",
    f"{_LLAMA}/vendor/",
    f"{_LLAMA}/ggml/",
)
_BACKENDS = ("ggml-cpu", "ggml-cuda")
"""The others' kernels and shaders are most of what is under `ggml/src`."""
_MODIFIED_S = 315_532_800
"""Of every file: 1980.  Build tools take 0 for a file that is not there."""
_NOT_NEEDED = ("llama_cpp/server/", f"{_LLAMA}/vendor/cpp-httplib/")


class TooBig(Exception):
    """The pack would be larger than we promise; nothing was written."""


def is_needed(path: str) -> bool:
    """Whether a file of the source distribution, named from its root, is needed to build for
    CUDA or the CPU and to import the low-level module."""
    if path.startswith(_NOT_NEEDED):
        return False
    if not any(path == one or (one.endswith("/") and path.startswith(one)) for one in _NEEDED):
        return False
    inside = path.removeprefix(f"{_LLAMA}/ggml/src/")
    is_of_backend = inside != path and "/" in inside
    return not is_of_backend or inside.split("/")[0] in _BACKENDS


def pack(sdist: Path, target: Path, wheels: Iterable[Path] = ()) -> int:
    """Write the pack and return its bytes.  Equal inputs give equal bytes."""
    buffer = io.BytesIO()
    with (
        tarfile.open(sdist) as source,
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w") as packed,
    ):
        for member in sorted(source.getmembers(), key=lambda one: one.name):
            inside = str(PurePosixPath(*PurePosixPath(member.name).parts[1:]))
            content = source.extractfile(member) if member.isfile() else None
            if content is not None and is_needed(inside):
                _add(packed, f"engine/{inside}", content.read(), member.mode)
        for wheel in sorted(wheels):
            _add(packed, f"engine/wheels/{wheel.name}", wheel.read_bytes(), 0o644)
    size = buffer.tell()
    if size > LIMIT_BYTES:
        raise TooBig(f"the pack would be {size:,} bytes; the limit is {LIMIT_BYTES:,}")
    target.write_bytes(buffer.getbuffer())
    return size


def _add(packed: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), mode & 0o755, _MODIFIED_S
    packed.addfile(entry, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(prog="gpucheck.trim")
    parser.add_argument("sdist", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--wheels", type=Path, help="folder of wheels to pack as well")
    options = parser.parse_args()
    wheels = [] if options.wheels is None else list(options.wheels.glob("*.whl"))
    try:
        size = pack(options.sdist, options.target, wheels)
    except TooBig as error:
        sys.exit(f"{error}; name fewer Pythons, or leave --numpy out")
    print(f"{options.target}: {size:,} bytes, {len(wheels)} wheels")


if __name__ == "__main__":
    main()
