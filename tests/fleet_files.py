"""What commands that simulate are given: two models, and a workload that asks for them in turn."""

import json
from pathlib import Path

import pytest

__all__ = ["MODELS", "in_folder", "write_asked"]

MODELS = """
models:
  a: {like: qwen3-4b, context: 4096}
  b: {like: qwen3-8b, context: 4096}
"""


def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run there, on a wide terminal, without published data."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.delenv("REPERTORY_DATA", raising=False)


def write_asked(path: Path, requests: int) -> None:
    rows = [
        {"at_s": at * 0.4, "model": "ab"[at % 2], "prompt_tokens": 200, "output_tokens": 30}
        for at in range(requests)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
