"""What the head of a model file says about serving it.  Pure arithmetic on a parsed header.

Formulas follow llama.cpp 0c1e570, the library that llama-cpp-python 0.3.36 holds; where it would
need the library to be exact, they give an upper bound and say so.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from repertory.domain.errors import LoadFailed
from repertory.engines.contract import ModelDescription
from repertory.engines.gguf.header import Header, Tensor

__all__ = [
    "ENCODERS",
    "OFFERED_WHOLE_TOKENS",
    "PROJECTOR",
    "buffers_bytes",
    "cpu_features",
    "describe_headers",
]

OFFERED_CONTEXT_TOKENS = 8192
"""What a model offers unless the operator says otherwise, or its training less (worker.md, KV)."""
OFFERED_WHOLE_TOKENS = 512
"""The same where a prompt is one batch.  The library keeps a row of the vocabulary's width for
each of its tokens: 64 MiB at 512 tokens of 32k words, 500 MiB of 250k."""
_SEQUENCES = 16
_MEAN, _CLS, _RANK = 1, 2, 4
"""The library's `pooling_type`."""


def describe_headers(
    headers: Sequence[Header],
    digest: str,
    *,
    batch_tokens: int,
    flash_attention: bool,
    features: frozenset[str],
) -> ModelDescription:
    """The facts of a model of one or several files."""
    head = _checked(headers)
    tensors = [tensor for header in headers for tensor in header.tensors]
    context_tokens = _number(head, "context_length", 0)
    pooling = _number(head, "pooling_type", 0)
    if pooling == _RANK:
        raise LoadFailed("scores pairs of texts (a reranker); that is not served")
    cells = min(context_tokens, OFFERED_CONTEXT_TOKENS)
    outputs = _SEQUENCES
    if not _is_causal(head):
        cells = min(context_tokens, OFFERED_WHOLE_TOKENS)
        batch_tokens = outputs = cells
    elif pooling in (_MEAN, _CLS):
        outputs = batch_tokens
    return ModelDescription(
        digest=digest,
        architecture=head.text("general.architecture"),
        weights_bytes=sum(tensor.size_bytes for tensor in tensors),
        repacked_bytes=_repacked_bytes(tensors, features),
        layers=_layers(head),
        kv_bytes_per_token=_kv_bytes_per_token(head),
        trained_context_tokens=context_tokens,
        vocabulary_tokens=_vocabulary(head),
        buffers_bytes=buffers_bytes(
            head,
            batch_tokens=batch_tokens,
            cells=cells,
            flash_attention=flash_attention,
            sequences=outputs,
        ),
        chat_template=head.text("tokenizer.chat_template") or "",
        is_embedding_only=pooling > 0 or not _is_causal(head),
        takes_whole_prompts=not _is_causal(head),
        bos_token=_bos_token(head),
        **_parts(tensors),
    )


PROJECTOR = "is a projector (images or sound to tokens) and no model of its own"
ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
"""Encoders among the library's architectures: no next token to ask them for, and no KV memory."""


def _checked(headers: Sequence[Header]) -> Header:
    """The head of a model that can be served; it stands in the first file."""
    head = headers[0]
    kind, architecture = head.text("general.type"), head.text("general.architecture")
    if architecture == "clip" or kind == "mmproj":
        raise LoadFailed(PROJECTOR)
    if kind not in ("", "model"):
        raise LoadFailed(f"is of the type {kind:.40} and no model of its own")
    if not architecture:
        raise LoadFailed("names no architecture")
    if not any(header.tensors for header in headers):
        raise LoadFailed("holds no weights (a vocabulary only)")
    split = head.number("split.count") or 1
    if split != len(headers) and split > 1:
        raise LoadFailed(f"is one of {split} parts, but is not named NAME-00001-of-{split:05}.gguf")
    return head


def _key(head: Header, name: str) -> str:
    return f"{head.text('general.architecture')}.{name}"


def _number(head: Header, name: str, default: int | None = None) -> int:
    value = head.number(_key(head, name))
    if value is None and default is None:
        raise LoadFailed(f"has no {_key(head, name)}")
    return value if value is not None else default or 0


def _layers(head: Header) -> int:
    layers = _number(head, "block_count")
    if not 1 <= layers <= 512:
        raise LoadFailed(f"has {layers} layers; the library takes 1 to 512")
    return layers


def _per_layer(head: Header, name: str, default: Sequence[int]) -> list[int]:
    """A parameter that files give once, or as one number for each layer."""
    value = head.values.get(_key(head, name))
    if value is None:
        return list(default)
    layers = _layers(head)
    if not isinstance(value, tuple):
        return [_number(head, name)] * layers
    if len(value) < layers or any(not isinstance(each, int) or each < 0 for each in value):
        raise LoadFailed(f"{_key(head, name)} should have {layers} counts")
    return [int(each) for each in value[:layers]]


def _kv_bytes_per_token(head: Header) -> int:
    """16-bit keys and values of one token in all layers: an upper bound.

    Layers with a sliding window hold fewer tokens than this says.  With latent attention (MLA)
    there are keys only.  Every `full_attention_interval`-th layer of a hybrid has attention; the
    others have a state per sequence, which is not in here.
    """
    if _is_encoder(head):
        return 0
    layers = _layers(head)
    heads = _per_layer(head, "attention.head_count", [0] * layers)
    kv_heads = _per_layer(head, "attention.head_count_kv", heads)
    by_default = _number(head, "embedding_length", 0) // max(1, *heads)
    key = _head_length(head, "key", by_default)
    value = _head_length(head, "value", by_default)
    if head.number(_key(head, "attention.key_length_mla")):
        value = 0
    interval = _number(head, "full_attention_interval", 1) or 1
    attending = kv_heads[interval - 1 :: interval]
    return sum(attending) * (key + value) * 2


def _head_length(head: Header, what: str, default: int) -> int:
    """The longer of the two that a model with sliding windows may have."""
    full = _number(head, f"attention.{what}_length", default)
    return max(full, _number(head, f"attention.{what}_length_swa", 0))


def _vocabulary(head: Header) -> int:
    tokens = head.lengths.get("tokenizer.ggml.tokens") or _number(head, "vocab_size", 0)
    if not tokens:
        raise LoadFailed("has no tokenizer")
    return tokens


def _is_encoder(head: Header) -> bool:
    return head.text("general.architecture") in ENCODERS


def _is_causal(head: Header) -> bool:
    """Whether a token looks only at those before it; if not, a prompt is one batch."""
    return not _is_encoder(head) and head.truth(_key(head, "attention.causal")) is not False


def _bos_token(head: Header) -> int | None:
    """Only where the file asks for it in front of every text."""
    if not head.truth("tokenizer.ggml.add_bos_token"):
        return None
    return head.number("tokenizer.ggml.bos_token_id")


def buffers_bytes(
    head: Header,
    *,
    batch_tokens: int,
    cells: int,
    flash_attention: bool,
    sequences: int = _SEQUENCES,
) -> int:
    """Compute buffers of a context, for one full batch: an upper bound.

    Activations are 4 bytes wide.  The library reuses their memory, so it holds at a time the
    widest of three (logits; attention scores, without flash attention; the feed-forward net's
    gate, up and product), the attention mask, and a few residual streams (eight here; six seen).
    Beside it, logits of one token per sequence (of every token where all their states are wanted,
    even from an encoder, which has none to give), and the batch once more in the weights' format.
    Against the library's own figure: 1.02 to 1.74 times, made models of all sizes, 512 to 4096
    cells, batches of 128 and 512, with and without flash attention, `kv_unified` off.
    """
    layers = _layers(head)
    heads = max(_per_layer(head, "attention.head_count", [0] * layers))
    stream = max(
        _number(head, "embedding_length", 0), heads * _number(head, "attention.key_length", 0)
    )
    net = max(_per_layer(head, "feed_forward_length", [0] * layers))
    experts = _number(head, "expert_used_count", 0)
    net = max(net, experts * _number(head, "expert_feed_forward_length", 0))
    vocabulary = _vocabulary(head)
    scores = 0 if flash_attention else heads * cells
    widest = max(0 if _is_encoder(head) else vocabulary, scores, 3 * net)
    graph = batch_tokens * 4 * (widest + cells + 8 * stream)
    return graph + sequences * vocabulary * 4 + batch_tokens * 2 * max(stream, net)


@cache
def cpu_features() -> frozenset[str]:
    """Flags of this machine's CPU as Linux names them; empty where nothing says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, "").partition(":")[2].split())


def _parts(tensors: Sequence[Tensor]) -> dict[str, int]:
    """How the library divides a model between an accelerator and main memory.

    Layers are what is named `blk.N`; tables that rows are taken from always stay; all else goes
    with the output head.  A head that the file does not have is the token embedding once more.
    """
    sizes = {"layers_bytes": 0, "kept_bytes": 0, "head_bytes": 0}
    for tensor in tensors:
        part = "head_bytes"
        if tensor.name.startswith("blk."):
            part = "layers_bytes"
        elif tensor.name.startswith(("token_embd.", *_LOOKED_UP)):
            part = "kept_bytes"
        sizes[part] += tensor.size_bytes
        if tensor.name == "token_embd.weight" and _is_tied(tensors):
            sizes["head_bytes"] += tensor.size_bytes
    return sizes


def _is_tied(tensors: Sequence[Tensor]) -> bool:
    return not any(tensor.name == "output.weight" for tensor in tensors)


_LOOKED_UP = ("position_embd.", "token_types.", "per_layer_token_embd.")
"""Tables that rows are taken from; the library keeps those as they are."""


def _repacked_bytes(tensors: Sequence[Tensor], features: frozenset[str]) -> int:
    """Bytes that the CPU backend writes anew (`ggml-cpu/repack.cpp`, `amx/amx.cpp` of the library).

    The token embedding counts where it is also the output matrix: that copy is repacked.
    """
    is_tied = _is_tied(tensors)
    return sum(
        _repacked(tensor, features)
        for tensor in tensors
        if not tensor.name.startswith(_LOOKED_UP)
        and (is_tied or not tensor.name.startswith("token_embd."))
    )


def _repacked(tensor: Tensor, features: frozenset[str]) -> int:
    if len(tensor.shape) < 2 or tensor.name.endswith(".bias"):
        return 0
    if "amx_int8" in features and "avx512_vnni" in features:
        row_values = _AMX_ROW_VALUES.get(tensor.format)
        is_whole = row_values and not (tensor.shape[0] % row_values or tensor.rows % 32)
        if row_values and is_whole and len(tensor.shape) == 2:
            blocks = tensor.shape[0] // row_values * tensor.rows
            return tensor.size_bytes + 4 * blocks
    for needed, rows in _REPACKED.get(tensor.format, ()):
        if needed <= features and tensor.rows % rows == 0:
            return tensor.size_bytes
    return 0


_AVX2 = frozenset({"avx2"})
_AVX512 = frozenset({"avx512f"})
_NEON = frozenset({"asimd", "asimddp"})
_NEON_INT8 = frozenset({"asimd", "i8mm"})
_REPACKED: dict[str, tuple[tuple[frozenset[str], int], ...]] = {
    "q4_0": ((_AVX2, 8), (_NEON_INT8, 4), (_NEON, 4)),
    "q4_k": ((_AVX2, 8), (_NEON_INT8, 8), (_NEON, 8)),
    "q2_k": ((_AVX512, 8),),
    "q5_k": ((_NEON_INT8, 8), (_NEON, 8)),
    "q6_k": ((_NEON_INT8, 8), (_NEON, 8)),
    "iq4_nl": ((_AVX2, 8), (_NEON, 4)),
    "mxfp4": ((_AVX2, 8), (_NEON, 4)),
    "q8_0": ((_NEON_INT8, 4), (_NEON, 4)),
    "q1_0": ((_NEON_INT8, 4), (_NEON, 4)),
}
"""Format -> (CPU features it takes, what the rows must be a multiple of), any of which suffices."""

_AMX_ROW_VALUES = {
    "q4_0": 32,
    "q4_1": 32,
    "q8_0": 32,
    "q4_k": 256,
    "q5_k": 256,
    "q6_k": 256,
    "iq4_xs": 256,
}
"""Formats that the matrix unit has kernels for; it comes first, and adds up to 4 bytes a block."""
