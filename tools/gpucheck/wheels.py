"""Gives Python the packages that it lacks from a folder of wheels: without pip, without a network.

`python3 -m gpucheck.wheels --wheels DIR --target DIR`; needs the standard library only.
"""

import argparse
import importlib.util
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["fitting", "missing", "unpack"]

_NEEDED = {
    "diskcache": "diskcache",
    "gguf": "gguf",
    "jinja2": "jinja2",
    "markupsafe": "markupsafe",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "typing_extensions": "typing_extensions",
    "yaml": "pyyaml",
}
"""What `llama_cpp` (low-level module), `gguf` and our engine rooms import -> the wheel's name."""


def missing() -> list[str]:
    """Names of the packages (as wheels are named) that this Python cannot import."""
    return [wheel for module, wheel in _NEEDED.items() if not importlib.util.find_spec(module)]


def fitting(
    name: str, wheels: Sequence[Path], python: tuple[int, int], processor: str
) -> Path | None:
    """The wheel of a package for this Python and processor; the last if there are several."""
    tag = f"cp{python[0]}{python[1]}"
    found = None
    for wheel in sorted(wheels):
        distribution, _, interpreter, _, platform = wheel.stem.split("-", 4)
        is_pure = interpreter.startswith("py") and platform == "any"
        is_ours = interpreter == tag and platform.endswith(processor)
        if distribution.lower() == name and (is_pure or is_ours):
            found = wheel
    return found


def unpack(names: Sequence[str], wheels: Path, target: Path) -> list[str]:
    """Unpack what fits; returns what no wheel was found for."""
    processor = sysconfig.get_platform().rsplit("-", 1)[-1]
    left = []
    for name in names:
        wheel = fitting(name, list(wheels.glob("*.whl")), sys.version_info[:2], processor)
        if wheel is None:
            left.append(name)
            continue
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        print(f"{name}: from {wheel.name}")
    return left


def main() -> None:
    parser = argparse.ArgumentParser(prog="gpucheck.wheels")
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    options = parser.parse_args()
    sys.path.append(str(options.target))  # what an earlier call unpacked is not missing
    left = unpack(missing(), options.wheels, options.target)
    if left:
        version = ".".join(map(str, sys.version_info[:2]))
        sys.exit(
            f"this Python {version} lacks {', '.join(left)}, and {options.wheels} has no wheel "
            f"for it: pack again with --python {version}" + (" --numpy" if "numpy" in left else "")
        )


if __name__ == "__main__":
    main()
