"""Model files made once per session, and real servers to ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import FOUR, RunningServer, Start, starting

from few import FEW
from repertory.engines.gguf.make import make_model


@pytest.fixture(scope="session")
def four_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four 50M models."""
    folder = tmp_path_factory.mktemp("four")
    for seed, (name, arch, weights) in enumerate(FOUR):
        make_model(folder / f"{name}.gguf", arch=arch, size="50m", weights=weights, seed=seed)
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three tiny models; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    for seed, name in enumerate(("ant", "bee", "cat")):
        make_model(folder / f"{name}.gguf", size="tiny", seed=seed, name=name)
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(folder, "--exact")`: a server of its own; it ends with exit code 0 and no worker."""
    with starting(tmp_path / "state") as begin:
        yield begin


@pytest.fixture(scope="module")
def server(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server of three tiny models for all tests of a module that leave it as it was."""
    with starting(tmp_path_factory.mktemp("server") / "state") as begin:
        yield begin(tiny_models)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """`repertory profile` measures in seconds."""
    monkeypatch.setattr("repertory.profiler.plan.points_for", lambda is_quick: FEW)
