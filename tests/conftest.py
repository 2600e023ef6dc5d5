"""Every test runs with the same clean environment; worlds are importable by name."""

import sys
from pathlib import Path

import pytest

from repertory.engines.gguf.make import make_model

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "engines"))


@pytest.fixture(scope="session")
def two_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two tiny models, stored in two ways; not to be changed."""
    folder = tmp_path_factory.mktemp("two")
    make_model(folder / "one.gguf", size="tiny", weights="q4_0", seed=1)
    make_model(folder / "two.gguf", size="tiny", seed=2)
    return folder
