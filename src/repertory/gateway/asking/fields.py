"""What becomes of every field of a request: one table, from which `docs/api.md` is written.

A test sees to it that no field of OpenAI's published schema is missing here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

__all__ = ["CHAT", "COMPLETION", "EMBEDDING", "HEADERS", "Fate", "Field"]


class Fate(Enum):
    SERVED = "served"
    IGNORED = "ignored"
    """Without it the answer would be the same."""
    REFUSED = "refused"
    """Ignoring it would change what the answer means."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field: what becomes of it, and why or how."""

    fate: Fate
    note: str
    origin: str = "OpenAI"
    """Whose field it is."""


def _served(note: str = "", origin: str = "OpenAI") -> Field:
    return Field(Fate.SERVED, note, origin)


def _ignored(note: str) -> Field:
    return Field(Fate.IGNORED, note)


def _refused(note: str) -> Field:
    return Field(Fate.REFUSED, note)


_BOOKKEEPING = "bookkeeping of OpenAI's own service"
_CACHE = "prompt prefixes are reused without being asked"

_PRIORITY = _served(
    "`interactive`, `batch` (a tenth of it), or a weight from 0.01 to 10: what a second of its "
    "waiting counts beside others'. Who weighs more has the next slot and the next step; what runs "
    "is stopped, and goes on later, for what weighs more. Waiting makes heavier: twice after 10 s. "
    "Absent: the model's",
    "ours",
)

_GENERATION: Mapping[str, Field] = {
    "model": _served("a model's name or alias"),
    "frequency_penalty": _served("-2 to 2"),
    "logit_bias": _served("token ids as strings, -100 to 100, added before everything else"),
    "max_tokens": _served("absent: min(context - prompt, 4096)"),
    "n": _served("1 to 128; seeds are `seed`, `seed + 1`, ...; if one is refused, none runs"),
    "presence_penalty": _served("-2 to 2"),
    "seed": _served("the same seed, the same draws; absent: drawn"),
    "stop": _served("up to 16 texts"),
    "stream": _served("server-sent events, ended by `[DONE]`"),
    "stream_options": _served(
        "`include_usage`; `include_progress` (ours): until the first token, a chunk each second "
        "with empty `choices` and `progress: {stage, place, share, eta_s}`"
    ),
    "temperature": _served("0 to 2; 0 is greedy"),
    "top_p": _served("0 to 1"),
    "user": _ignored(_BOOKKEEPING),
    "grammar": _served("GBNF that the answer is held to", "llama.cpp"),
    "ignore_eos": _served("go on to `max_tokens`", "llama.cpp, vLLM"),
    "json_schema": _served("a JSON schema that the answer is held to", "llama.cpp"),
    "min_p": _served("0 to 1", "llama.cpp, vLLM"),
    "priority": _PRIORITY,
    "repeat_penalty": _served("above 0, to 10", "llama.cpp, Ollama"),
    "repetition_penalty": _served("the same under its other name", "vLLM"),
    "structured_outputs": _served(
        "one of `json`, `json_object`, `grammar`, `choice`; `regex` and `structural_tag` are "
        "refused: write a grammar",
        "vLLM",
    ),
    "timeout": _served(
        "seconds from dispatch, not from arrival, for the whole answer; then an error 504", "ours"
    ),
    "top_k": _served("0 and -1: all", "llama.cpp, vLLM"),
}

CHAT: Mapping[str, Field] = {
    **_GENERATION,
    "messages": _served("text only; `developer` is `system`, which templates know"),
    "logprobs": _served("by the model alone, before bias, penalties and filters"),
    "max_completion_tokens": _served("goes before `max_tokens`"),
    "parallel_tool_calls": _served("false: further calls of an answer are dropped"),
    "reasoning_effort": _served(
        "a variable of the template; `none` is `enable_thinking: false` as well"
    ),
    "response_format": _served(
        "`text`, `json_object` (of a `schema` or `value`, as llama.cpp and huggingface_hub say), "
        "`json_schema`, strict or not; not together with tools that may be called"
    ),
    "tool_choice": _served("`none`, `auto`, `required`, or a function's name"),
    "tools": _served("functions, called in the template's own format where it is known"),
    "top_logprobs": _served("0 to 20, with `logprobs`"),
    "chat_template_kwargs": _served("variables of the template", "llama.cpp, vLLM"),
    "reasoning_format": _served(
        "`none` leaves the thinking in the content; `auto`, `deepseek` split it off", "llama.cpp"
    ),
    "metadata": _ignored(_BOOKKEEPING),
    "prediction": _ignored("a hint for speed"),
    "prompt_cache_key": _ignored(_CACHE),
    "prompt_cache_options": _ignored(_CACHE),
    "prompt_cache_retention": _ignored(_CACHE),
    "safety_identifier": _ignored(_BOOKKEEPING),
    "service_tier": _ignored("there is one tier"),
    "store": _ignored("nothing is stored"),
    "verbosity": _ignored("a hint for OpenAI's own models; say it in the prompt"),
    "audio": _refused("only text is generated"),
    "function_call": _refused("use `tool_choice`"),
    "functions": _refused("use `tools`"),
    "modalities": _refused('only text is generated; `["text"]` is accepted'),
    "moderation": _refused("nothing is moderated here"),
    "web_search_options": _refused("nothing is searched here"),
}

COMPLETION: Mapping[str, Field] = {
    **_GENERATION,
    "prompt": _served("a text, a list of texts, a list of token ids, or a list of such lists"),
    "best_of": _served("only if it equals `n`: all generations are returned, none is ranked away"),
    "echo": _served("not together with `logprobs`: a prompt's log-probabilities are not computed"),
    "logprobs": _served("0 to 20; by the model alone, before bias, penalties and filters"),
    "suffix": _refused("filling in the middle is not served"),
}

EMBEDDING: Mapping[str, Field] = {
    "model": _served("a model's name or alias"),
    "input": _served("a text, a list of texts, a list of token ids, or a list of such lists"),
    "dimensions": _served("only the number that the model makes"),
    "encoding_format": _served("`float` or `base64`"),
    "priority": _PRIORITY,
    "user": _ignored(_BOOKKEEPING),
}

HEADERS: Mapping[str, Field] = {
    "x-repertory-deadline-ms": _served(
        "a whole number: within so many milliseconds of its arrival here the request wants its "
        "first token (an embedding, its vector). If that cannot be, whatever is done for it, or if "
        "the number is 0 or less, it is refused at once: 504, `deadline_exceeded`, with the "
        "prediction. Else it counts in every choice made for it; one that is missed all the same "
        "is answered all the same. With `n` or several prompts each of them has it",
        "ours",
    ),
}
"""Of all requests that generate."""
