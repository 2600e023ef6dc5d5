"""The files that both serve: random weights of real shapes, made once."""

from collections.abc import Callable, Sequence
from pathlib import Path

from repertory.engines.gguf.make import Recipe, make_model

__all__ = ["EIGHT", "LOADED", "PAIRS", "folder_of"]

_SMALL: Recipe = {"arch": "llama", "size": "50m", "weights": "q8_0"}
_MIDDLE: Recipe = {"arch": "llama", "size": "300m", "weights": "q8_0"}
_LARGE: Recipe = {"arch": "llama", "size": "1b", "weights": "q4_0"}
_RECIPES: dict[str, Recipe] = {
    **{f"50m-{letter}": _SMALL for letter in "abcd"},
    **{f"300m-{letter}": _MIDDLE for letter in "abc"},
    **{f"1b-{letter}": _LARGE for letter in "ab"},
}
LOADED = ("50m-a", "300m-a", "1b-a")
"""One of each size."""
PAIRS = (("50m-a", "50m-b"), ("300m-a", "300m-b"), ("1b-a", "1b-b"))
"""Two of a size, to swap."""
EIGHT = ("50m-a", "50m-b", "300m-a", "50m-c", "300m-b", "1b-a", "50m-d", "300m-c")
"""By falling popularity: small and large are mixed, so that no rule by size is right."""


def folder_of(names: Sequence[str], root: Path, said: Callable[[str], None]) -> Path:
    """A folder of exactly these models; the files themselves are made once and linked."""
    store = root / "models"
    store.mkdir(parents=True, exist_ok=True)
    folder = root / "folders" / "+".join(names)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = store / f"{name}.gguf"
        if not path.exists():
            said(f"making {name}")
            seed = sorted(_RECIPES).index(name) + 1
            make_model(path, **{**_RECIPES[name], "seed": seed, "name": name})
        link = folder / path.name
        if not link.exists():
            link.hardlink_to(path)
    return folder
