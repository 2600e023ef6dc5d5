"""What of a Hugging Face `config.json` costs anything: sizes of layers, heads and experts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repertory.domain.errors import ConfigError

__all__ = ["ARCHITECTURES", "ModelShape", "shape_of"]

ARCHITECTURES = {
    "GemmaForCausalLM": "dense",
    "Glm4ForCausalLM": "dense",
    "GraniteForCausalLM": "dense",
    "LlamaForCausalLM": "dense",
    "MistralForCausalLM": "dense",
    "Olmo2ForCausalLM": "dense",
    "Phi3ForCausalLM": "dense",
    "Qwen2ForCausalLM": "dense",
    "Qwen2_5_VLForConditionalGeneration": "dense",
    "Qwen3ForCausalLM": "dense",
    "SeedOssForCausalLM": "dense",
    "SmolLM3ForCausalLM": "dense",
    "GraniteMoeForCausalLM": "experts",
    "MixtralForCausalLM": "experts",
    "OlmoeForCausalLM": "experts",
    "Qwen2MoeForCausalLM": "experts",
    "Qwen3MoeForCausalLM": "experts",
}
"""Those whose layers are what is added up here: full attention over grouped heads, gated MLP."""
_BY_TYPE = {
    "gemma": "GemmaForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "granite": "GraniteForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_5_vl_text": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_vl_moe_text": "Qwen3MoeForCausalLM",
    "qwen3_vl_text": "Qwen3ForCausalLM",
    "seed_oss": "SeedOssForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
"""Of a `model_type`: where no architecture is named, and inside a `text_config`."""
_WITH_QK_NORM = ("Olmo2ForCausalLM", "OlmoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
_TIED = ("GemmaForCausalLM",)
"""Where a config that does not say means yes."""
_MOST = 1 << 24
"""No published model has a size as large in any direction; typing errors have."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of the whole model, before it is split over GPUs."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    """Of the dense MLP; 0: every layer has experts."""
    vocabulary: int
    experts: int = 0
    experts_per_token: int = 0
    expert_inner: int = 0
    shared_inner: int = 0
    """Of the expert that every token visits."""
    dense_layers: int = 0
    """Of a model with experts: layers without."""
    is_tied: bool = False
    """Input and output embedding are one matrix."""
    weights: str = "bfloat16"
    """As the tables of kernels name it."""
    context_tokens: int = 0
    """The most that it was made for."""

    @property
    def has_qk_norm(self) -> bool:
        return self.architecture in _WITH_QK_NORM

    @property
    def expert_layers(self) -> int:
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def weight_bytes(self) -> int:
        """Norms and biases are left out: less than a thousandth."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        dense = 3 * self.hidden * self.inner
        expert = 3 * self.hidden * (self.experts * self.expert_inner + self.shared_inner)
        expert += self.hidden * self.experts
        layers = self.layers * attention + (self.layers - self.expert_layers) * dense
        layers += self.expert_layers * expert
        embeddings = self.vocabulary * self.hidden * (1 if self.is_tied else 2)
        return layers * (2 if self.weights == "bfloat16" else 1) + 2 * embeddings

    def kv_bytes_per_token(self, tp: int) -> int:
        """On each GPU.  With more GPUs than KV heads, heads are held twice."""
        return 2 * 2 * self.layers * self.head_dim * max(1, self.kv_heads // tp)

    def experts_met(self, tokens: int) -> float:
        """How many experts of a layer so many tokens visit, each choosing evenly."""
        if not self.experts:
            return 0.0
        share = self.experts_per_token / self.experts
        return (
            self.experts * -math.expm1(tokens * math.log1p(-share)) if share < 1 else self.experts
        )


def shape_of(config: Mapping[str, Any], where: str) -> ModelShape:  # Any: JSON
    """Raises `ConfigError`, which names `where`, the key and what is wrong with it."""
    if isinstance(text := config.get("text_config"), Mapping):
        config = {**config, "architectures": None, **text}  # what sees and hears is not asked
    name = _architecture(config, where)
    size = _Sizes(config, where)
    heads, hidden = size.of("num_attention_heads"), size.of("hidden_size")
    kv_heads = size.of("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ConfigError(f"{where}: num_key_value_heads: {kv_heads} does not divide {heads} heads")
    shape: dict[str, Any] = {  # Any: a field each
        "architecture": name,
        "layers": size.of("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": size.of("head_dim", hidden // heads),
        "vocabulary": size.of("vocab_size"),
        "context_tokens": size.of("max_position_embeddings", _MOST),
        "is_tied": bool(config.get("tie_word_embeddings", name in _TIED)),
        "weights": _weights(config, where),
        "inner": 0,
    }
    shape |= _experts(config, size) if ARCHITECTURES[name] == "experts" else _dense(size)
    return ModelShape(**shape)


def _architecture(config: Mapping[str, Any], where: str) -> str:
    names = config.get("architectures")
    kind = config.get("model_type")
    name = names[0] if isinstance(names, list) and names else _BY_TYPE.get(str(kind), kind)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConfigError(
            f"{where}: architectures: {name!r} is not known: latent, windowed or linear attention"
            f" is not modelled; known: {known}"
        )
    return name


@dataclass(frozen=True, slots=True)
class _Sizes:
    config: Mapping[str, Any]
    where: str

    def of(self, key: str, otherwise: int | None = None) -> int:
        value = self.config.get(key)
        if value is None:
            if otherwise is None:
                raise ConfigError(f"{self.where}: {key} is missing")
            return otherwise
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST:
            raise ConfigError(f"{self.where}: {key}: {value!r} is no size between 1 and {_MOST}")
        return value


def _dense(size: _Sizes) -> dict[str, int]:
    return {"inner": size.of("intermediate_size")}


def _experts(config: Mapping[str, Any], size: _Sizes) -> dict[str, int]:
    """Families name the same things differently: Mixtral and OLMoE's MLP is the expert's."""
    key = "num_local_experts" if config.get("num_local_experts") else "num_experts"
    own = "moe_intermediate_size" if config.get("moe_intermediate_size") else "intermediate_size"
    experts, per_token = size.of(key), size.of("num_experts_per_tok")
    if per_token > experts:
        raise ConfigError(f"{size.where}: num_experts_per_tok: {per_token} of {experts} experts")
    layers, step = size.of("num_hidden_layers"), size.of("decoder_sparse_step", 1)
    without = config.get("mlp_only_layers") or []
    dense = sum(1 for at in range(layers) if at in without or (at + 1) % step)
    return {
        "experts": experts,
        "experts_per_token": per_token,
        "expert_inner": size.of(own),
        "shared_inner": config.get("shared_expert_intermediate_size") or 0,
        "dense_layers": dense,
        "inner": size.of("intermediate_size") if dense else 0,
    }


def _weights(config: Mapping[str, Any], where: str) -> str:
    """The name of the weights' type in the tables of kernels."""
    quantised = config.get("quantization_config")
    if not quantised:
        return "bfloat16"
    method = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised
    if method != "fp8":
        raise ConfigError(
            f"{where}: quantization_config: {method!r} is not modelled; "
            "16-bit weights and fp8 are: leave it out to see the model in 16 bits"
        )
    return "fp8_block" if quantised.get("weight_block_size") else "fp8"
