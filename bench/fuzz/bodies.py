"""Good bodies with random fields: a maker for every field that the API publishes."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from random import Random
from typing import Any

from bench.fuzz.constraints import grammar, schema

__all__ = ["ENDPOINTS", "MAKERS", "MODELS", "Body", "body_for"]

Body = dict[str, Any]  # JSON
_Maker = Callable[[Random], Any]  # JSON

MODELS = ("ant", "bee", "cat")
_TEXTS = ("hello", "the cat sat", "é✓🙂", "", "x" * 300, "\n\n", "<|im_end|>", "<think>", '{"a":')


def _one(*values: Any) -> _Maker:  # JSON
    return lambda luck: luck.choice(values)


def _text(luck: Random) -> str:
    return " ".join(luck.choice(_TEXTS) for _ in range(luck.choice((1, 1, 2, 5))))


def _between(least: float, most: float) -> _Maker:
    return lambda luck: luck.choice((least, most, round(luck.uniform(least, most), 3)))


def _stop(luck: Random) -> Any:
    stops = [luck.choice(("e", "th", "\n", "é", "zz", " ")) for _ in range(luck.randrange(1, 5))]
    return luck.choice((stops, stops[0], []))


def _ids(luck: Random) -> list[int]:
    return [luck.randrange(1024) for _ in range(luck.randrange(1, 12))]


def _prompt(luck: Random) -> Any:
    return luck.choice(
        (
            _text(luck) or "x",
            [_text(luck) or "x", "y"],
            _ids(luck),
            [_ids(luck), _ids(luck)],
            [_ids(luck), "x"],
        )
    )


def _bias(luck: Random) -> dict[str, float]:
    tokens = range(luck.randrange(6))
    return {str(luck.randrange(1024)): luck.choice((-100, 100, -1.5, 0, 5)) for _ in tokens}


def _message(luck: Random) -> Body:
    role = luck.choice(("user", "user", "user", "system", "developer", "assistant", "tool"))
    content: Any = _text(luck)
    if luck.random() < 0.2:
        content = [{"type": "text", "text": _text(luck)} for _ in range(luck.randrange(1, 3))]
    found: Body = {"role": role, "content": content}
    if role == "assistant" and luck.random() < 0.4:
        call = {"name": "look", "arguments": '{"at": 5}'}
        found["tool_calls"] = [{"id": "abcdefghi", "type": "function", "function": call}]
    if role == "assistant" and luck.random() < 0.2:
        found["reasoning_content"] = _text(luck)
    if role == "tool":
        found["tool_call_id"] = "abcdefghi"
    return found


def _messages(luck: Random) -> list[Body]:
    return [*(_message(luck) for _ in range(luck.randrange(3))), {"role": "user", "content": "hi"}]


def _tool(luck: Random) -> Body:
    function: Body = {"name": luck.choice(("look", "add", "a.b-c_1"))}
    if luck.random() < 0.8:
        function["parameters"] = schema(luck)
    if luck.random() < 0.5:
        function["description"] = _text(luck)
    if luck.random() < 0.2:
        function["strict"] = True
    return {"type": "function", "function": function}


def _tool_choice(luck: Random) -> Any:
    named = {"type": "function", "function": {"name": luck.choice(("look", "add"))}}
    return luck.choice(("none", "auto", "required", named))


def _response_format(luck: Random) -> Body:
    kind = luck.choice(("text", "json_object", "json_schema"))
    found: Body = {"type": kind}
    if kind == "json_schema":
        found["json_schema"] = {"name": "answer", "schema": schema(luck), "strict": True}
    elif kind == "json_object" and luck.random() < 0.3:
        found["schema"] = schema(luck)
    return found


def _structured(luck: Random) -> Body:
    makers: dict[str, _Maker] = {
        "json": schema,
        "json_object": _one(True),
        "grammar": grammar,
        "choice": _one(["yes", "no"], ["a\nb", '"', "é"], [""]),
        "regex": _one("a*"),
    }
    name = luck.choice(tuple(makers))
    return {name: makers[name](luck)}


def _stream_options(luck: Random) -> Body:
    return {
        name: luck.choice((True, False))
        for name in ("include_usage", "include_progress")
        if luck.random() < 0.6
    }


_GENERATION: Mapping[str, _Maker] = {
    "model": _one(*MODELS),
    "frequency_penalty": _between(-2, 2),
    "logit_bias": _bias,
    "max_tokens": _one(1, 2, 4, 8),
    "n": _one(1, 1, 2, 3),
    "presence_penalty": _between(-2, 2),
    "seed": _one(0, 5, -1, 2**63 - 1),
    "stop": _stop,
    "stream": _one(True, False),
    "stream_options": _stream_options,
    "temperature": _between(0, 2),
    "top_p": _between(0, 1),
    "user": _text,
    "grammar": grammar,
    "ignore_eos": _one(True, False),
    "json_schema": schema,
    "min_p": _between(0, 1),
    "repeat_penalty": _between(0.1, 10),
    "repetition_penalty": _between(0.1, 10),
    "structured_outputs": _structured,
    "timeout": _one(0.01, 5, 86_400),
    "top_k": _one(-1, 0, 1, 40, 10**6),
}
MAKERS: Mapping[str, Mapping[str, _Maker]] = {
    "chat": {
        **_GENERATION,
        "messages": _messages,
        "logprobs": _one(True, False),
        "max_completion_tokens": _one(1, 5),
        "parallel_tool_calls": _one(True, False),
        "reasoning_effort": _one("none", "low", "high"),
        "response_format": _response_format,
        "tool_choice": _tool_choice,
        "tools": lambda luck: [_tool(luck) for _ in range(luck.randrange(3))],
        "top_logprobs": _one(0, 1, 5, 20),
        "chat_template_kwargs": _one({}, {"enable_thinking": False}, {"x": [1, {"y": None}]}),
        "reasoning_format": _one("none", "auto", "deepseek"),
        "metadata": _one({}, {"a": "b"}),
        "prediction": _one({"type": "content", "content": "x"}),
        "prompt_cache_key": _text,
        "prompt_cache_options": _one({}),
        "prompt_cache_retention": _one("24h"),
        "safety_identifier": _text,
        "service_tier": _one("auto"),
        "store": _one(True, False),
        "verbosity": _one("low"),
        "audio": _one({"voice": "x"}),
        "function_call": _one("auto"),
        "functions": _one([]),
        "modalities": _one(["text"], ["audio"]),
        "moderation": _one({}),
        "web_search_options": _one({}),
    },
    "completion": {
        **_GENERATION,
        "prompt": _prompt,
        "best_of": _one(1, 2),
        "echo": _one(True, False),
        "logprobs": _one(0, 1, 5, 20),
        "suffix": _one("x"),
    },
    "embedding": {
        "model": _one(*MODELS),
        "input": _prompt,
        "dimensions": _one(128, 64),
        "encoding_format": _one("float", "base64"),
        "user": _text,
    },
    "tokenize": {
        "model": _one(*MODELS),
        "prompt": _text,
        "messages": _messages,
        "tools": lambda luck: [_tool(luck)],
        "add_special_tokens": _one(True, False),
        "add_generation_prompt": _one(True, False),
        "chat_template_kwargs": _one({}, {"enable_thinking": False}),
    },
    "detokenize": {"model": _one(*MODELS), "tokens": _ids},
}
"""By kind of body: a maker of good values for each of its fields."""

_NEEDED = {
    "chat": ("model", "messages", "max_tokens"),
    "completion": ("model", "prompt", "max_tokens"),
    "embedding": ("model", "input"),
    "tokenize": ("model",),
    "detokenize": ("model", "tokens"),
}
"""`max_tokens` so that an answer is short."""
_REFUSED = frozenset(
    ("audio", "function_call", "functions", "moderation", "web_search_options", "suffix")
)
ENDPOINTS = (
    ("chat", "/v1/chat/completions", 8),
    ("completion", "/v1/completions", 5),
    ("embedding", "/v1/embeddings", 2),
    ("tokenize", "/tokenize", 1),
    ("tokenize", "/v1/tokenize", 1),
    ("detokenize", "/detokenize", 1),
    ("detokenize", "/v1/detokenize", 1),
)
"""Kind of body, path, and how often it is asked beside the others."""


def body_for(luck: Random, kind: str) -> Body:
    """What the kind needs and a few fields more; those that are always refused come rarely."""
    makers = MAKERS[kind]
    names = list(_NEEDED[kind])
    if kind == "tokenize":
        names.append(luck.choice(("prompt", "messages")))
    others = [name for name in makers if name not in names]
    extra = luck.sample(others, min(len(others), luck.choice((0, 1, 2, 3, 6))))
    names += [name for name in extra if name not in _REFUSED or luck.random() < 0.1]
    luck.shuffle(names)
    return deepcopy({name: makers[name](luck) for name in names})
