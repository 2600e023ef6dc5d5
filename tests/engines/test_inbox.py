"""Calls reach the worker whole and in order, in whatever pieces they come."""

import asyncio
import socket

import msgspec
import pytest

from repertory.domain.errors import WorkerGone
from repertory.engines.llamacpp.inbox import Inbox
from repertory.engines.wire import Call, encode


def _call(number: int) -> Call:
    return Call(number, "cancel", msgspec.Raw(msgspec.msgpack.encode((f"g{number}",))))


async def _told(pieces: list[bytes], begin=None) -> list[Call]:  # type: ignore[no-untyped-def]
    """What an inbox has begun when its socket ended."""
    begun: list[Call] = []
    inbox = Inbox(begin or begun.append)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_unix_connection(
            lambda: inbox, sock=ours
        )
        for piece in pieces:
            theirs.sendall(piece)
    try:
        await inbox.ended
    finally:
        transport.close()
    return begun


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_calls_come_whole_and_in_order_in_whatever_pieces(size: int) -> None:
    calls = [_call(number) for number in range(5)]
    text = b"".join(encode(one) for one in calls)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert asyncio.run(_told(pieces)) == calls


def test_what_is_no_call_ends_it() -> None:
    with pytest.raises(msgspec.MsgspecError):
        asyncio.run(_told([b"\x01\x00\x00\x00?"]))
    with pytest.raises(WorkerGone, match="another language"):
        asyncio.run(_told([b"\xff\xff\xff\xff"]))


def test_a_call_that_breaks_the_worker_ends_it() -> None:
    def begin(_: Call) -> None:
        raise RuntimeError("our bug")

    with pytest.raises(RuntimeError, match="our bug"):
        asyncio.run(_told([encode(_call(1))], begin))
