"""What a worker is told by its server."""

import asyncio
from collections.abc import Callable

from repertory.engines.wire import Call, decode_call, take_payloads

__all__ = ["Inbox"]


class Inbox(asyncio.Protocol):
    """Calls in the order in which they came.

    Each is begun by the very event that brings it: a task that reads a stream would be woken twice
    for it, a tenth of a millisecond of each move.
    """

    def __init__(self, begin: Callable[[Call], None]) -> None:
        """`begin` must not wait for anything."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """The socket is closed; or what came was no call, or broke us: it raises why."""
        self._begin = begin
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            for payload in take_payloads(self._received):
                self._begin(decode_call(payload))
        except Exception as broken:  # noqa: BLE001 - raised by whoever waits for the end
            if not self.ended.done():
                self.ended.set_exception(broken)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
