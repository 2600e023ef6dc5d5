"""Times between the points where they were read, and models by their config.json."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.domain.errors import ConfigError
from repertory.perf.vllm.batches import padded_tokens
from repertory.perf.vllm.grids import grid_of
from repertory.perf.vllm.links import over_link
from repertory.perf.vllm.shapes import shape_of

_QWEN: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 64,
    "hidden_size": 5120,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 25600,
    "vocab_size": 151936,
}
_EXPERTS = _QWEN | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}


@given(st.floats(-10, 50), st.floats(-10, 50))
def test_a_plane_is_read_back_and_carried_on(x: float, y: float) -> None:
    """On a grid that is not full: each line has its own points."""
    points = {(a, b): 1.0 + 2 * a + 3 * b for a, b in [(0, 0), (0, 9), (4, 2), (4, 5), (4, 7)]}
    assert grid_of(points).at(x, y) == pytest.approx(max(0.0, 1.0 + 2 * x + 3 * y), abs=1e-9)


def test_one_point_is_everywhere() -> None:
    assert grid_of({(3.0,): 7.0}).at(100.0) == 7.0


def test_last_knots_are_those_of_the_last_axis() -> None:
    assert grid_of({(0.0, 1.0): 1.0, (5.0, 2.0): 1.0}).last_knots() == {1.0, 2.0}


def test_a_slow_link_is_a_floor() -> None:
    measured = grid_of({(1e3,): 5e-6, (16e6,): 0.9e-3})
    over = over_link(measured, 2, 16e9)
    assert over.at(1e3) == 5e-6
    assert over.at(16e6) == pytest.approx(1e-3)
    assert over_link(measured, 2, None) is measured


def test_graphs_exist_up_to_twice_the_sequences() -> None:
    assert padded_tokens(3, 128) == 4
    assert padded_tokens(129, 128) == 136
    assert padded_tokens(257, 128) == 257
    assert padded_tokens(513, 512) == 513


def test_weights_and_kv_of_a_dense_model() -> None:
    shape = shape_of(_QWEN, "config.json")
    assert shape.weight_bytes == pytest.approx(65.5e9, rel=0.001)
    assert shape.kv_bytes_per_token(2) == 64 * 4 * 128 * 2 * 2


def test_weights_of_a_mixture_of_experts() -> None:
    moe = _EXPERTS | {"num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32}
    shape = shape_of(moe | {"num_key_value_heads": 4}, "config.json")
    assert shape.weight_bytes == pytest.approx(61.1e9, rel=0.01)
    assert shape.experts_met(1) == pytest.approx(8)
    assert shape.experts_met(1000) == pytest.approx(128, rel=1e-6)


def test_a_text_model_inside_another_is_the_one_that_is_asked() -> None:
    """Mistral Small 3.1: 23.6 B parameters without its eyes."""
    text = {"model_type": "mistral", "hidden_size": 5120, "intermediate_size": 32768}
    text |= {"head_dim": 128, "num_attention_heads": 32, "num_key_value_heads": 8}
    text |= {"num_hidden_layers": 40, "vocab_size": 131072, "max_position_embeddings": 131072}
    seeing = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3"}
    shape = shape_of(seeing | {"text_config": text}, "config.json")
    assert (shape.architecture, shape.context_tokens) == ("MistralForCausalLM", 131072)
    assert shape.weight_bytes == pytest.approx(2 * 23.6e9, rel=0.01)
    with pytest.raises(ConfigError, match=r"'gemma3_text' is not known: .*windowed"):
        shape_of(seeing | {"text_config": text | {"model_type": "gemma3_text"}}, "config.json")


def test_what_a_config_does_not_say_is_its_familys_default() -> None:
    """Gemma 7B: one matrix for both embeddings, 8.54 B parameters.  Llama 1: as many KV heads."""
    gemma = {"architectures": ["GemmaForCausalLM"], "head_dim": 256, "hidden_size": 3072}
    gemma |= {"intermediate_size": 24576, "num_attention_heads": 16, "num_key_value_heads": 16}
    gemma |= {"num_hidden_layers": 28, "vocab_size": 256000}
    assert shape_of(gemma, "c").weight_bytes == pytest.approx(2 * 8.54e9, rel=0.01)
    plain = {name: one for name, one in _QWEN.items() if name != "architectures"}
    llama = shape_of(plain | {"model_type": "llama", "num_key_value_heads": None}, "c")
    assert (llama.architecture, llama.kv_heads) == ("LlamaForCausalLM", 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["DeepseekV3ForCausalLM"]}, "DeepseekV3ForCausalLM.*known: .*Llama"),
        ({"architectures": None}, "architectures: None"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": -3}, "num_hidden_layers: -3"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"num_key_value_heads": 7}, "7 does not divide 64"),
        ({"quantization_config": {"quant_method": "awq"}}, "'awq' is not modelled"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"config.json: .*{words}|config.json: {words}"):
        shape_of(_QWEN | change, "config.json")
