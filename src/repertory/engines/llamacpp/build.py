"""Which build of the library this is, told without loading it: what was measured of one build does
not hold for another.
"""

import hashlib
import os
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

__all__ = ["engine_build"]

_SAMPLES = 16
_SAMPLE_BYTES = 256 << 10


@cache
def engine_build() -> str:
    """Its version, and a digest of its files: built for other instructions, or for a GPU, it has
    the same version.
    """
    digest = hashlib.sha256()
    for path in _files():
        digest.update(path.name.encode())
        _feed(digest, path)
    return f"llama-cpp-python {version('llama-cpp-python')}, {digest.hexdigest()[:12]}"


def _files() -> list[Path]:
    """Those that the package would load; `LLAMA_CPP_LIB_PATH` swaps them."""
    swapped = os.environ.get("LLAMA_CPP_LIB_PATH")
    package = find_spec("llama_cpp")
    if package is None or package.origin is None:
        return []
    folder = Path(swapped) if swapped else Path(package.origin).parent / "lib"
    return sorted(one for one in folder.glob("*.so") if one.is_file())


def _feed(digest: "hashlib._Hash", path: Path) -> None:
    """Its size and samples: up to 4 MiB that is all of it; one for CUDA has hundreds."""
    size = path.stat().st_size
    digest.update(f"{size}".encode())
    with path.open("rb") as file:
        for at in range(_SAMPLES):
            file.seek(size * at // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
