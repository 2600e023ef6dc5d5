"""The socket, and what HTTP itself is allowed.  The only module that imports uvicorn.

uvicorn's parser has no limits of its own: headers may be as large as memory, and a client may take
for ever to send them.  `_Bounded` adds them:

1. A request's head must be small (431) and come soon (408).
2. Its body must go on coming, and come to an end (408).  How large it may be, says the application.
3. More connections than are allowed are told so (503) as soon as they have asked for something;
   far more are closed at once.
"""

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from repertory.domain.errors import ConfigError
from repertory.gateway.answer import EXTENSION, send_whole
from repertory.gateway.failures import http_failure

__all__ = ["Bounds", "Listener", "open_socket"]

_BACKLOG = 2048
"""As uvicorn has it."""
_TOLD = 64
"""Connections over the bound that are told so; each costs a file for at most `head_s`."""
_UNSENT_BYTES = 16 * 2**10
"""That wait in the system, and as many here, before a client is seen to be slow: 130 events.  Left
alone, the system takes 2 to 3 MB, 10,000 events that nobody may ever read."""
_OWN_FILES = 128
"""Files that the server needs for itself."""
_RETRY_S = 5
"""Connections come and go; nothing is known of when the next one ends."""
_PHRASES = {
    400: ("Bad Request", "malformed"),
    408: ("Request Timeout", "slow"),
    431: ("Request Header Fields Too Large", "head"),
}
"""HTTP's own words for a status, and that of the metrics."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of connections and of what is sent on them."""

    head_bytes: int = 32 * 2**10
    """Request line and headers.  node allows 16 KiB, nginx 32; cookies are the largest known."""
    headers: int = 100
    """As Apache has it."""
    head_s: float = 20.0
    """From the first byte, or from the connection, to the last header."""
    body_idle_s: float = 20.0
    """Without a byte of a body that has not ended.  A stalled upload comes back within that."""
    body_s: float = 300.0
    """For the whole request: 8 MiB at a quarter of a megabit per second."""
    connections: int = 4096
    """As many as may wait for a model; fewer where the process may have fewer files."""


def open_socket(host: str, port: int) -> socket.socket:
    """Bind before anything is loaded: a port that is taken must be known at once.  0: any port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # connections inherit it
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        # At once: two sockets may be bound to one port, but only one can listen.
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
        ) from error
    return listening


class Listener:
    """Serves an application on a socket.  Signals stay with the caller."""

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        drain_s: float = 30.0,
        bounds: Bounds | None = None,
        denied: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`denied` hears of every request that does not reach the application, and why."""
        self._socket = listening
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_bounded(bounds or Bounds(), denied),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,  # gateway.account writes one line per request
                server_header=False,
                # Longer than clients keep a connection: the side that closes first must be theirs.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=max(1, round(drain_s)),
            )
        )

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    async def serve(self) -> None:
        """Until `stop`.  Running answers get `drain_s` to end."""
        await self._server.serve(sockets=[self._socket])

    async def accepting(self) -> None:
        """Returns when connections are taken."""
        await self._server.accepting.wait()

    def stop(self) -> None:
        self._server.should_exit = True


def _is_news(record: logging.LogRecord) -> bool:
    """A whole answer that is broken off on purpose has its line in the log of requests."""
    return record.msg != "ASGI callable returned without completing response."


class _Server(uvicorn.Server):
    """Says when it listens, and leaves the process's signals alone (uvicorn offers no option)."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()


def _bounded(bounds: Bounds, denied: Callable[[str], None]) -> type[asyncio.Protocol]:
    """uvicorn makes protocols from a class, and hands them nothing of ours."""
    most = min(bounds.connections, _file_limit() - _OWN_FILES - _TOLD)

    class Protocol(_Bounded):
        def __init__(self, *arguments: Any, **named: Any) -> None:  # Any: uvicorn's own
            super().__init__(*arguments, **named)
            self.bounds = bounds
            self.denied = denied
            self.most_connections = max(1, most)

    return Protocol


def _file_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


class _Refused(Exception):
    """Raised inside a callback of the parser, which then stops; `refusal` has the answer."""


class _Bounded(HttpToolsProtocol):
    """One connection, within bounds.  A small request on a known connection starts no timer."""

    bounds: Bounds
    denied: Callable[[str], None]
    most_connections: int

    def __init__(self, *arguments: Any, **named: Any) -> None:  # Any: uvicorn's own
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        """Of the request that is coming in, as far as the parser has told."""
        self._unparsed_bytes = 0
        """Received since a request began whose head is not complete."""
        self._is_in_head = True
        self._is_in_body = False
        self._began_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(_UNSENT_BYTES)
        over = len(self.connections) - self.most_connections
        if over > 0:
            self.denied("connections")
            self.app = _crowded
        if over > _TOLD:
            transport.abort()
            return
        self._began_s = self.loop.time()
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if not self._is_in_body and self._unparsed_bytes == 0:
            self._began_s = self.loop.time()
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._unparsed_bytes > self.bounds.head_bytes:
            self._refuse(431, _head_text(self.bounds))  # one header that has no end
        if self._refusal is None and (self._is_in_body or self._unparsed_bytes):
            self._arm()
        else:
            self._disarm()

    # The parser tells.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"abort": self.transport.abort}}
        self._is_in_head = True
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)
        if len(self.headers) > self.bounds.headers:
            self._refusal = (431, f"A request may have {self.bounds.headers} headers.")
            raise _Refused

    def on_headers_complete(self) -> None:
        super().on_headers_complete()  # raises where the target is none: still in the head then
        self._is_in_head, self._is_in_body = False, True
        self._unparsed_bytes = 0

    def on_message_complete(self) -> None:
        self._is_in_body = False
        self._unparsed_bytes = 0
        self._is_in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What could not be parsed, or was refused while it was."""
        self._refuse(*(self._refusal or (400, msg)))

    def _count(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > self.bounds.head_bytes:
            self._refusal = (431, _head_text(self.bounds))
            raise _Refused

    def _arm(self) -> None:
        self._disarm()
        due_s = self._began_s + self.bounds.head_s
        if self._is_in_body:
            now_s = self.loop.time()
            due_s = min(now_s + self.bounds.body_idle_s, self._began_s + self.bounds.body_s)
        self._timer = self.loop.call_at(due_s, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        """1. Nothing was ever asked on this connection: there is nothing to answer.
        2. An answer is under way while the next request comes in: it is our reading that stands.
        3. The client stopped sending.
        """
        if self.cycle is None and self._unparsed_bytes == 0:
            self.transport.close()
        elif self.pipeline or (self._is_in_head and not self._is_answered()):
            self._began_s = self.loop.time()
            self._arm()
        else:
            what = "body" if self._is_in_body else "headers"
            self._refuse(408, f"The {what} of this request did not come in time.")

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _may_answer(self) -> bool:
        """Nothing of another answer is on the wire, or will be, where this one would stand."""
        if self._is_in_head:
            return self._is_answered()
        return not self.pipeline and not self.cycle.response_started

    def _refuse(self, status: int, message: str) -> None:
        """Write an answer without the application, and close: what follows cannot be understood."""
        self._refusal = (status, message)
        self._disarm()
        if self.transport.is_closing():
            return
        phrase, reason = _PHRASES[status]
        self.denied(reason)
        if not self._may_answer():
            self.transport.close()
            return
        body = http_failure(status, message).body
        lines = (
            f"HTTP/1.1 {status} {phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
        )
        self.transport.write("\r\n".join((*lines, "", "")).encode() + body)
        self.transport.close()


def _head_text(bounds: Bounds) -> str:
    return f"The head of a request may have {bounds.head_bytes} bytes."


async def _crowded(_: Scope, __: Receive, send: Send) -> None:
    failure = http_failure(503, "There are too many connections; try again later.", "overloaded")
    headers = {"retry-after": str(_RETRY_S), "connection": "close"}
    await send_whole(send, failure.status, failure.body, headers)
