"""Where cuBLAS comes from when the CUDA toolkit has none: NVIDIA's Python package of it.

`python3 -m gpucheck.cublas` prints that package's folder, which has `include/` and `lib/`.
Needs the standard library only.
"""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["package_folder"]


def package_folder(roots: Iterable[Path]) -> Path | None:
    """The folder of `nvidia-cublas` in NVIDIA's name space (nvidia/cu13, nvidia/cublas, ...)."""
    for root in roots:
        for folder in sorted(root.glob("*")):
            header = folder / "include" / "cublas_v2.h"
            if header.exists() and list((folder / "lib").glob("libcublas.so.*")):
                return folder
    return None


def main() -> None:
    spec = importlib.util.find_spec("nvidia")
    roots = () if spec is None else spec.submodule_search_locations or ()
    folder = package_folder(Path(root) for root in roots)
    if folder is None:
        sys.exit("neither the CUDA toolkit nor a Python package (nvidia-cublas) has cuBLAS")
    print(folder)


if __name__ == "__main__":
    main()
