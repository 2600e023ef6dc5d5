"""What a worker says to its server, from any of its threads."""

import asyncio
import contextlib
import socket
import threading

__all__ = ["Outbox"]


class Outbox:
    """Messages in the order of `send`.

    A thread writes its own message: tokens on their way through the event loop's thread would wake
    it first, on a core that computes, and a first token would wait for two processes' turns more.
    Only what the socket does not take at once is left to the loop.
    """

    def __init__(self, connected: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = connected.dup()  # a loop that reads it would not watch it for room, too
        self._loop = loop
        self._in_order = threading.Lock()
        self._left = bytearray()
        """Of messages that did not fit."""

    def send(self, message: bytes) -> None:
        """Never waits.  That a server is gone is for whoever reads the socket to notice."""
        with self._in_order:
            if not self._left:
                message = message[self._write(message) :]
                if message:
                    self._loop.call_soon_threadsafe(
                        self._loop.add_writer, self._socket, self._write_more
                    )
            self._left += message

    def close(self) -> None:
        """On the loop's thread, when nobody sends any more.  What is left is lost."""
        self._loop.remove_writer(self._socket)
        self._socket.close()

    def _write_more(self) -> None:
        with self._in_order:
            del self._left[: self._write(self._left)]
            if not self._left:
                self._loop.remove_writer(self._socket)

    def _write(self, message: bytes | bytearray) -> int:
        """How much of it is off."""
        with contextlib.suppress(BlockingIOError):
            try:
                return self._socket.send(message)
            except ConnectionError:
                return len(message)
        return 0
