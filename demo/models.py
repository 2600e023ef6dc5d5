"""The demonstration's models, and the memory that fits two of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repertory.engines.gguf.files import describe_file
from repertory.engines.gguf.make import Recipe, make_model

__all__ = ["RECIPES", "Budget", "budget_for_two", "make_missing"]

_MIB = 2**20

RECIPES: tuple[Recipe, ...] = (
    {"name": "llama-q8", "arch": "llama", "size": "300m", "weights": "q8_0", "seed": 1},
    {"name": "llama-q4", "arch": "llama", "size": "300m", "weights": "q4_0", "seed": 2},
    {"name": "qwen3-q8", "arch": "qwen3", "size": "300m", "weights": "q8_0", "seed": 3},
    {"name": "qwen3-q4", "arch": "qwen3", "size": "300m", "weights": "q4_0", "seed": 4},
)
"""Real shapes with random weights: they cost the memory and the time of real models."""

_ROOM_BYTES = 64 * _MIB
"""Beside a model's weights: its buffers, and the KV of a few short conversations."""
_PROCESSES_BYTES = 200 * _MIB
"""Server and worker without any model: `repertory ps` states 180 MiB as their overhead."""


@dataclass(frozen=True, slots=True)
class Budget:
    bytes: int
    story: str


def make_missing(folder: Path, said: Callable[[str, int, int], None]) -> None:
    """Write the models that are not there yet; `said` hears (name, bytes written, in total)."""
    folder.mkdir(parents=True, exist_ok=True)
    for recipe in RECIPES:
        name = recipe["name"] or ""
        path = folder / f"{name}.gguf"
        if not path.exists():
            make_model(path, progress=_about(name, said), **recipe)


def _about(name: str, said: Callable[[str, int, int], None]) -> Callable[[int, int], None]:
    return lambda written_bytes, total_bytes: said(name, written_bytes, total_bytes)


def budget_for_two(paths: Sequence[Path]) -> Budget:
    """Enough for the two largest, and too little for the three smallest."""
    needs = sorted(describe_file(path).weights_bytes + _ROOM_BYTES for path in paths)
    pair_bytes = sum(needs[-2:])
    total_mib = -(-(pair_bytes + _PROCESSES_BYTES) // _MIB)
    story = (
        f"{total_mib} MiB: {pair_bytes // _MIB} for two of {len(needs)} models (all of them "
        f"need {sum(needs) // _MIB}) + {_PROCESSES_BYTES // _MIB} for the server"
    )
    return Budget(total_mib * _MIB, story)
