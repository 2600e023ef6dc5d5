"""Frames between a server and its worker: length-prefixed msgpack over a Unix socket.

A call is answered by one `Reply` or one `Failure` of its id; `Output` and `Beat` come unasked.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from repertory.domain import errors
from repertory.domain.actions import (
    Activate,
    Deactivate,
    Drop,
    Load,
    Resize,
    Stage,
    Unload,
)
from repertory.domain.events import Measured
from repertory.domain.specs import ModelSpec, NodeSpec
from repertory.engines.contract import (
    Frame,
    GenerationSpec,
    GrammarKind,
    ModelDescription,
    WorkerStats,
)

__all__ = [
    "SIGNATURES",
    "Beat",
    "Call",
    "Failure",
    "FromWorker",
    "Output",
    "Reply",
    "Signature",
    "decode_call",
    "decode_from_worker",
    "encode",
    "error_of",
    "failure_of",
    "take_payloads",
]

_HEADER = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size
_MOST_BYTES = 256 << 20
"""A longer frame is a broken peer: the longest honest one is a prompt's tokens."""


class Call(msgspec.Struct, tag="call", array_like=True, frozen=True):
    """A method of the `Engine` contract, with its arguments as `SIGNATURES` says."""

    id: int
    method: str
    arguments: msgspec.Raw


class Reply(msgspec.Struct, tag="reply", array_like=True, frozen=True):
    id: int
    result: msgspec.Raw


class Failure(msgspec.Struct, tag="failure", array_like=True, frozen=True):
    """An error of `domain.errors`, by its name."""

    id: int
    kind: str
    message: str
    field: str | None = None


class Output(msgspec.Struct, tag="output", array_like=True, frozen=True):
    frame: Frame


class Beat(msgspec.Struct, tag="beat", array_like=True, frozen=True):
    """The worker's io thread lives; `progress` grows with every step and every move."""

    at_ns: int
    progress: int


FromWorker = Reply | Failure | Output | Beat


@dataclass(frozen=True, slots=True)
class Signature:
    """What a call carries and what its reply holds."""

    arguments: Any
    """A tuple type."""
    result: Any


SIGNATURES: dict[str, Signature] = {
    "probe": Signature(tuple[()], NodeSpec),
    "describe": Signature(tuple[str], ModelDescription),
    "render": Signature(tuple[str, list[dict[str, Any]], dict[str, Any]], tuple[int, ...]),
    "tokenize": Signature(tuple[str, str], tuple[int, ...]),
    "detokenize": Signature(tuple[str, tuple[int, ...]], str),
    "grammar": Signature(tuple[str, GrammarKind, str], str),
    "stage": Signature(tuple[Stage, ModelSpec], Measured),
    "load": Signature(tuple[Load, ModelSpec], Measured),
    "activate": Signature(tuple[Activate], Measured),
    "resize": Signature(tuple[Resize], Measured),
    "deactivate": Signature(tuple[Deactivate], Measured),
    "unload": Signature(tuple[Unload], Measured),
    "drop": Signature(tuple[Drop], Measured),
    "submit": Signature(tuple[str, GenerationSpec], None),
    "cancel": Signature(tuple[str], None),
    "preempt": Signature(tuple[str], None),
    "hold": Signature(tuple[str, bool], None),
    "stats": Signature(tuple[()], WorkerStats),
}

_ERRORS: dict[str, type[errors.RepertoryError]] = {
    "BadRequest": errors.BadRequest,
    "ContextExceeded": errors.ContextExceeded,
    "EngineError": errors.EngineError,
    "LoadFailed": errors.LoadFailed,
    "OutOfMemory": errors.OutOfMemory,
    "Quarantined": errors.Quarantined,
    "UnknownModel": errors.UnknownModel,
    "WorkerGone": errors.WorkerGone,
}

_encoder = msgspec.msgpack.Encoder()
_call_decoder = msgspec.msgpack.Decoder(Call)
_from_worker_decoder = msgspec.msgpack.Decoder(FromWorker)


def encode(message: Call | FromWorker) -> bytes:
    """A whole frame."""
    payload = _encoder.encode(message)
    return _HEADER.pack(len(payload)) + payload


def _payload_bytes(header: bytes | bytearray) -> int:
    """How many bytes follow a header."""
    (count,) = _HEADER.unpack(header)
    if count > _MOST_BYTES:
        raise errors.WorkerGone(f"a frame of {count} bytes: the peer speaks another language")
    return int(count)


def take_payloads(received: bytearray) -> Iterator[bytes]:
    """The payloads that have come whole; what remains in `received` has not."""
    at = 0
    while len(received) - at >= _HEADER_BYTES:
        begin = at + _HEADER_BYTES
        end = begin + _payload_bytes(received[at:begin])
        if end > len(received):
            break
        yield bytes(received[begin:end])
        at = end
    del received[:at]


def decode_call(payload: bytes) -> Call:
    return _call_decoder.decode(payload)


def decode_from_worker(payload: bytes) -> FromWorker:
    return _from_worker_decoder.decode(payload)  # type: ignore[no-any-return]  # a union's decoder


def failure_of(call_id: int, error: Exception) -> Failure:
    """An error on its way to the server; what is no `RepertoryError` is the engine's fault."""
    kind = type(error).__name__
    if kind not in _ERRORS:
        return Failure(call_id, "EngineError", str(error) or kind)
    field = error.field if isinstance(error, errors.ClientError) else None
    return Failure(call_id, kind, str(error), field)


def error_of(failure: Failure) -> errors.RepertoryError:
    """The error at the server's end."""
    kind = _ERRORS.get(failure.kind, errors.EngineError)
    if issubclass(kind, errors.ClientError):
        return kind(failure.message, failure.field)
    return kind(failure.message)
