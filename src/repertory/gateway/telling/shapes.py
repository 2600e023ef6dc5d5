"""OpenAI's answers on the wire, with `reasoning_content` as DeepSeek's API and vLLM have it."""

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "CallDelta",
    "ChatChoice",
    "ChatChunk",
    "ChatChunkChoice",
    "ChatCompletion",
    "ChatLogprobs",
    "ChatMessage",
    "ChatToken",
    "Completion",
    "CompletionChoice",
    "CompletionLogprobs",
    "CompletionTokensDetails",
    "Delta",
    "Detokenized",
    "Embedding",
    "EmbeddingList",
    "EmbeddingUsage",
    "FunctionDelta",
    "PromptTokensDetails",
    "RankedToken",
    "Tokenized",
    "ToolCall",
    "ToolFunction",
    "Usage",
    "WaitProgress",
]


class PromptTokensDetails(Struct):
    cached_tokens: int


class CompletionTokensDetails(Struct):
    reasoning_tokens: int


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET
    """Where thinking is split off."""


class RankedToken(Struct):
    token: str
    bytes: list[int]
    logprob: float


class ChatToken(Struct):
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[RankedToken]


class ChatLogprobs(Struct):
    content: list[ChatToken]
    refusal: None = None


class ToolFunction(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    type: str
    function: ToolFunction


class ChatMessage(Struct):
    role: str
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
    index: int
    message: ChatMessage
    finish_reason: str
    logprobs: ChatLogprobs | None = None


class ChatCompletion(Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(Struct):
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class CallDelta(Struct):
    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionDelta | UnsetType = UNSET


class Delta(Struct):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET


class ChatChunkChoice(Struct):
    index: int
    delta: Delta
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None


class WaitProgress(Struct):
    """Ours, where asked for: how far an answer is that has not begun."""

    stage: str
    """queued, loading, prefill or decode."""
    place: int | None
    share: float | None
    eta_s: float | None


class ChatChunk(Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    """With `include_usage`: null in all chunks but the last, as OpenAI does it."""
    progress: WaitProgress | UnsetType = UNSET


class CompletionLogprobs(Struct):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Struct):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: CompletionLogprobs | None = None


class Completion(Struct):
    """Whole and chunk have one shape here."""

    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    progress: WaitProgress | UnsetType = UNSET


class Embedding(Struct):
    object: str
    index: int
    embedding: list[float] | str
    """Or base64 of little-endian 32-bit floats."""


class EmbeddingUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct):
    object: str
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Tokenized(Struct):
    """vLLM's shape."""

    count: int
    max_model_len: int
    tokens: tuple[int, ...]


class Detokenized(Struct):
    """vLLM's shape."""

    prompt: str
