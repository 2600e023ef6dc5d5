"""Messages of many threads reach the server whole, in order, whatever the socket takes at once."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from repertory.engines.llamacpp.outbox import Outbox


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def _read(connected: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    read = b""
    while len(read) < size:
        read += await loop.sock_recv(connected, size - len(read))
    return read


def test_what_does_not_fit_goes_out_later_and_in_order(pair):  # type: ignore[no-untyped-def]
    messages = [bytes([number]) * 50_000 for number in range(100)]

    async def run() -> bytes:
        outbox = Outbox(pair[0], asyncio.get_running_loop())
        sender = threading.Thread(target=lambda: [outbox.send(one) for one in messages])
        sender.start()
        sender.join()  # it waits for nobody, though nobody reads
        read = await _read(pair[1], 5_000_000)
        outbox.close()
        return read

    assert asyncio.run(run()) == b"".join(messages)


def test_messages_of_many_threads_are_not_mixed(pair):  # type: ignore[no-untyped-def]
    async def run() -> bytes:
        outbox = Outbox(pair[0], asyncio.get_running_loop())

        def speak(number: int) -> None:
            for _ in range(50):
                outbox.send(bytes([number]) * 7_000)

        threads = [threading.Thread(target=speak, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        read = await _read(pair[1], 4 * 50 * 7_000)
        for thread in threads:
            thread.join()
        outbox.close()
        return read

    read = asyncio.run(run())
    pieces = [set(read[at : at + 7_000]) for at in range(0, len(read), 7_000)]
    assert all(len(piece) == 1 for piece in pieces)


def test_a_server_that_is_gone_is_no_error(pair):  # type: ignore[no-untyped-def]
    async def run() -> None:
        outbox = Outbox(pair[0], asyncio.get_running_loop())
        for _ in range(20):
            outbox.send(b"x" * 100_000)  # some of it is left
        pair[1].close()
        outbox.send(b"y")
        await asyncio.sleep(0)
        outbox.close()

    asyncio.run(run())
