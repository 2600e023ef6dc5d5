"""Every key of `repertory.yaml`: the parser, the JSON schema and the checks read this table.

A new key is a row here and a field of what `file.py` builds from it.
"""

from repertory.config.kinds import (
    AutoOr,
    Choice,
    Duration,
    Endpoint,
    Entries,
    FilePath,
    Key,
    ListOf,
    Mapping,
    Name,
    Size,
    Text,
    Truth,
    Whole,
)
from repertory.domain.requests import PRIORITIES
from repertory.domain.settings import Favour
from repertory.live.options import HOST_MEMORY_BEYOND, HOST_MEMORY_PARTS

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "FILE"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7373
"""REPE on a telephone; 8000, 8080 and 11434 belong to servers that people run beside this one."""

_MODEL = Mapping(
    (
        Key(
            "path",
            FilePath(must_exist=True),
            "The model's GGUF file; of a model in parts, its first. Relative to this file.",
            needs="the model's file",
        ),
        Key("aliases", ListOf(Name()), "More names that clients may use."),
        Key("pin", Truth(), "Loaded at the start, and never evicted.", False),
        Key("preload", Truth(), "Loaded at the start; evicted like any other.", False),
        Key(
            "context",
            Whole(1, 2**31 - 1),
            "Tokens of prompt and answer together. Default: what the model was trained for, at "
            "most 8192.",
        ),
        Key(
            "ttl",
            Duration(),
            "Unloaded after so long without a request. Seconds, if it has no unit.",
            "never",
        ),
        Key(
            "priority",
            Choice(list(PRIORITIES)),
            "A batch request may wait ten times as long as an interactive one.",
            "interactive",
        ),
    )
)

_DEVICE = Mapping(
    (
        Key(
            "id",
            Text(),
            "A core set's name; an accelerator's as the engine calls it.",
            needs="such as CUDA0 or cpu0",
        ),
        Key(
            "cores",
            ListOf(Whole(0, 4095), 1, "one core, or be left out for an accelerator"),
            "The CPU cores of the set; left out for an accelerator.",
        ),
        Key("memory", Size(), "What models may take there. Default: what the engine finds."),
    )
)

FILE = Mapping(
    (
        Key(
            "models",
            Entries(_MODEL),
            "The models to serve, by the names that clients use.",
            needs="at least one model, with its path",
        ),
        Key(
            "devices",
            AutoOr(ListOf(_DEVICE, 1, "one device, or be auto", is_unique=False)),
            "What to compute on: auto, or a list.",
            "auto",
        ),
        Key(
            "rpc",
            ListOf(Endpoint()),
            "RPC servers of llama.cpp, as HOST:PORT: a device each, called RPC0, RPC1, and so on. "
            "They know no password: only for a network of your own.",
            [],
        ),
        Key(
            "memory",
            Size(),
            "For everything together: server, worker, weights, KV. Default: what is free at the "
            "start, less a margin.",
        ),
        Key(
            "host_memory",
            Size(),
            "Of that, kept for the KV memory of generations and conversations that lost their "
            f"slot. Default: 1/{HOST_MEMORY_PARTS} of what is beyond "
            f"{HOST_MEMORY_BEYOND >> 30} GiB; nothing where 'devices' name their memory.",
        ),
        Key(
            "saved_kv_disk",
            Size(),
            "Of the state folder's disk, for more of that KV memory, and so that it outlives a "
            "restart. It holds what people said, readable for this user only. Default: none.",
        ),
        Key(
            "favour",
            Choice([each.value for each in Favour]),
            "The one dial: hand memory over sooner (latency) or later (throughput).",
            Favour.BALANCED.value,
        ),
        Key("host", Text(), "The address to listen on.", DEFAULT_HOST),
        Key("port", Whole(0, 65535), "The port to listen on; 0 is any free one.", DEFAULT_PORT),
        Key("state_dir", FilePath(), "Where logs and state are kept. Relative to this file."),
        Key(
            "exact",
            Truth(),
            "The same tokens whatever else runs; slower, and a resume continues to the bit.",
            False,
        ),
    )
)
