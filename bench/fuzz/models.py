"""The good models that are asked, and from which damaged ones are made."""

from pathlib import Path

from bench.fuzz.bodies import MODELS
from bench.fuzz.gguf_layout import Layout, text
from repertory.engines.gguf.make import CHAT_TEMPLATE, Recipe, make_model

__all__ = ["MEMORY", "make_models"]

MEMORY = "600MiB"
_CONTEXT_TOKENS = 512
"""So that an answer without `max_tokens` ends soon."""
_THINKING = (
    "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}"
    + CHAT_TEMPLATE
    + "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
)
_RECIPES: dict[str, Recipe] = {
    "ant": {"arch": "llama", "weights": "q8_0"},
    "bee": {"arch": "qwen3", "weights": "q8_0"},
    "cat": {"arch": "llama", "weights": "q4_0"},
}


def make_models(folder: Path) -> list[bytes]:
    """Three tiny ones of two architectures, one of which thinks and calls tools."""
    folder.mkdir()
    for seed, name in enumerate(MODELS):
        recipe = _RECIPES[name]
        path = folder / f"{name}.gguf"
        make_model(
            path, size="tiny", seed=seed, name=name, context_tokens=_CONTEXT_TOKENS, **recipe
        )
    thinking = folder / "bee.gguf"
    layout = Layout.read(thinking.read_bytes())
    layout.key("chat_template").value = text(_THINKING.encode())
    thinking.write_bytes(layout.build())
    return [(folder / f"{name}.gguf").read_bytes() for name in MODELS]
