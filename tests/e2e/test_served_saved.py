"""A conversation finds its cells again after its model made way: seen from outside."""

from pathlib import Path
from typing import Any

import pytest
from serving import RunningServer, Start, wait_for

from repertory.core.journal import read_lines
from repertory.engines.gguf.make import make_model

LONG = [300 + 11 * n % 500 for n in range(2000)]
TURN = [*LONG, *range(400, 410)]
CHUNK_TOKENS = 128


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, of which one fits, with memory and disk for what they leave."""
    folder = tmp_path_factory.mktemp("pair")
    for seed, name in enumerate(("left", "right")):
        make_model(folder / f"{name}.gguf", size="50m", seed=seed, name=name)
    (folder / "pair.yaml").write_text(
        "models: {left: {path: left.gguf}, right: {path: right.gguf}}\n"
        "host_memory: 48MiB\n"
        "saved_kv_disk: 64MiB\n"
    )
    return folder / "pair.yaml"


def ask(server: RunningServer, model: str, prompt: list[int]) -> int:
    """The tokens of the prompt that were not computed again."""
    body: Any = {"prompt": prompt, "max_tokens": 4, "seed": 7, "extra_body": {"ignore_eos": True}}
    with server.client() as client:
        usage = client.completions.create(model=model, **body).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    return usage.prompt_tokens_details.cached_tokens or 0


def first_tokens(server: RunningServer) -> list[dict[str, Any]]:
    lines = [line for path in server.log_files() for line in path.read_bytes().splitlines()]
    events = [entry["event"] for entry in read_lines(lines)]
    return [event for event in events if event["kind"] == "FirstToken"]


@pytest.mark.parametrize("flags", [(), ("--exact",)], ids=["default", "exact"])
def test_swapped_away_and_back_a_hundredth_of_a_long_prompt_is_computed(
    start: Start, pair: Path, flags: tuple[str, ...]
) -> None:
    """And in mode `exact`, where cells come in whole chunks, the chunk that is not whole.  What it
    left outlives the server, too.
    """
    server = start(pair, *flags, memory="372MiB")
    assert ask(server, "left", LONG) == 0
    assert ask(server, "right", [5, 6, 7]) == 0
    assert server.loaded() == ["right"]
    most = len(LONG) if not flags else len(LONG) // CHUNK_TOKENS * CHUNK_TOKENS
    assert ask(server, "left", TURN) == most
    if not flags:
        assert len(TURN) - most <= 0.01 * len(TURN)
    back = wait_for(
        lambda: next((one for one in first_tokens(server) if one["restored_bytes"]), None)
    )
    assert back["reused_tokens"] == most
    assert back["restored_from"] == "host"
    saved = server.state_dir / "saved-kv"
    assert ask(server, "right", [5, 6, 7]) == 0
    wait_for(lambda: list(saved.glob("*.kv")))
    server.stop()
    server = start(pair, *flags, memory="372MiB")
    assert ask(server, "left", TURN) == (most if flags else len(TURN) - 1)
    wait_for(lambda: "disk" in {one["restored_from"] for one in first_tokens(server)})
    assert sum(path.stat().st_size for path in saved.iterdir()) <= 64 << 20
