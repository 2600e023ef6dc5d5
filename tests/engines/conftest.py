"""Model files for the engine tests, made once per session."""

from collections.abc import Callable
from pathlib import Path

import pytest

from repertory.engines.gguf.make import Recipe, make_model

ModelMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> ModelMaker:
    """`model_file(size="tiny", weights="q4_0")`: a path; equal recipes share one file."""
    folder = tmp_path_factory.mktemp("models")

    def make(**wishes: object) -> Path:
        recipe: Recipe = {"size": "tiny", **wishes}  # type: ignore[typeddict-item]
        name = "-".join(f"{key}{value}" for key, value in sorted(recipe.items()))
        path = folder / f"{name}.gguf"
        if not path.exists():
            make_model(path, **recipe)
        return path

    return make
