"""Several threads look into one vocabulary: grammars are read while other text is written."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repertory.engines.gguf.make import make_model
from repertory.engines.llamacpp.library import Model, start

_ROUNDS = 8


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.usefixtures("hasty")
def test_a_piece_is_the_token_s_own_whoever_else_asks(tmp_path: Path) -> None:
    path = tmp_path / "words.gguf"
    make_model(path, size="tiny", name="words")
    start()
    model = Model(path, vocabulary_only=True)
    try:
        tokens = range(model.vocabulary_tokens)
        alone = [model.piece(token) for token in tokens]

        def read(step: int) -> list[bytes]:
            return [model.piece(token) for _ in range(_ROUNDS) for token in tokens[::step]]

        with ThreadPoolExecutor(2) as pool:
            forth, back = pool.submit(read, 1), pool.submit(read, -1)
            assert forth.result() == alone * _ROUNDS
            assert back.result() == alone[::-1] * _ROUNDS
    finally:
        model.free()
