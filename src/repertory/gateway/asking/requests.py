"""OpenAI's requests on the wire, with what clients of llama.cpp and vLLM add to them.

Ranges are OpenAI's where OpenAI has the field, llama.cpp's elsewhere.  Unknown fields are
ignored, as SDKs send many; `null` means "not given".  `fields.py` says what becomes of each.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

__all__ = [
    "ChatBody",
    "CompletionBody",
    "DetokenizeBody",
    "EmbeddingBody",
    "GenerationBody",
    "JsonSchema",
    "Message",
    "Part",
    "ResponseFormat",
    "StreamOptions",
    "StructuredOutputs",
    "TokenizeBody",
    "Tool",
]

_Name = Annotated[str, Meta(min_length=1)]
_Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Bias = Annotated[float, Meta(ge=-100, le=100)]
_Repetition = Annotated[float, Meta(gt=0, le=10)]
_StopText = Annotated[str, Meta(min_length=1)]
_Stops = Annotated[list[_StopText], Meta(max_length=16)]
"""OpenAI allows 4; clients of local servers send their templates' end marks too."""
_Ranked = Annotated[int, Meta(ge=0, le=20)]
_Copies = Annotated[int, Meta(ge=1, le=128)]
_Weight = Annotated[float, Meta(ge=0.01, le=10)]
_Priority = Literal["interactive", "batch"] | _Weight
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]
_Json = dict[str, Any]  # Any: JSON whose shape is another's business


class StreamOptions(Struct):
    include_usage: bool | None = None
    include_progress: bool | None = None
    """Ours."""


class StructuredOutputs(Struct):
    """vLLM's name of constraints."""

    json: str | _Json | None = None
    grammar: str | None = None
    choice: Annotated[list[str], Meta(min_length=1, max_length=1024)] | None = None
    json_object: bool | None = None
    regex: str | None = None
    structural_tag: str | None = None


class GenerationBody(Struct, kw_only=True):
    """What chat and plain completions have in common."""

    model: _Name
    max_tokens: _Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    """0 and -1: all."""
    min_p: _Share | None = None
    repetition_penalty: _Repetition | None = None
    repeat_penalty: _Repetition | None = None
    """llama.cpp's and Ollama's name of it."""
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _StopText | _Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: _Copies | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[_TokenId, _Bias] | None = None
    grammar: str | None = None
    """llama.cpp's name: GBNF."""
    json_schema: _Json | None = None
    """llama.cpp's name."""
    structured_outputs: StructuredOutputs | None = None
    timeout: _Seconds | None = None
    """Ours: counted from dispatch."""
    priority: _Priority | None = None
    """Ours."""


class Part(Struct):
    """A part of a message's content.  Only text is understood."""

    type: str
    text: str | None = None


class Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[_Json] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class JsonSchema(Struct):
    name: str | None = None
    schema: _Json | None = None
    strict: bool | None = None
    """The answer keeps to the schema either way."""


class ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema: _Json | None = None
    """Of `json_object`, as llama.cpp takes it."""
    value: _Json | None = None
    """The same, as huggingface_hub sends it for a `json_schema`."""


class Function(Struct, omit_defaults=True):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: _Json | None = None
    strict: bool | None = None


class Tool(Struct):
    type: Literal["function"]
    function: Function


class ChatBody(GenerationBody, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: _Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: _Ranked | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: str | _Json | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    reasoning_format: Literal["auto", "deepseek", "none"] | None = None
    """llama.cpp's: `none` leaves the thinking in the content."""
    chat_template_kwargs: _Json | None = None
    """vLLM's and llama.cpp's name of the template's variables."""
    audio: Any = None  # from here on Any: refused, whatever it is
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    moderation: Any = None
    web_search_options: Any = None


class CompletionBody(GenerationBody, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[_TokenId | str | list[_TokenId]]
    logprobs: _Ranked | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: _Copies | None = None


class EmbeddingBody(Struct):
    """POST /v1/embeddings."""

    model: _Name
    input: str | list[_TokenId | str | list[_TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: _Tokens | None = None
    priority: _Priority | None = None
    """Ours."""


class TokenizeBody(Struct):
    """POST /tokenize."""

    model: _Name
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: _Json | None = None


class DetokenizeBody(Struct):
    """POST /detokenize."""

    model: _Name
    tokens: list[_TokenId]
