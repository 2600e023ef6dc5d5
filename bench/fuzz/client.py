"""A client that sends bytes as they are, and reads answers by the book."""

import asyncio
import contextlib
import socket
import struct
import time
from dataclasses import dataclass, field

from bench.fuzz.cases import Case, Manner

__all__ = ["Answer", "Talk", "talk"]

HANG_S = 30.0
_HEARS_S = 0.3
"""So long for the first byte of an answer to what may be no request; then the client says that it
sends no more.  Whoever says so has left: an answer that it began to get meanwhile may end there."""
_STALL_S = 45.0
"""The server ends a stalled request after 20 s."""


@dataclass
class Answer:
    """One answer of the server."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    is_whole: bool = True
    """False: the connection ended before the body did."""


@dataclass
class Talk:
    """What came of a case."""

    case: Case
    answers: list[Answer] = field(default_factory=list)
    trouble: str = ""
    """What went wrong on the wire; empty: nothing, or the client left."""
    seconds: float = 0.0


async def talk(host: str, port: int, case: Case) -> Talk:
    found = Talk(case)
    began_s = time.monotonic()
    limit_s = _STALL_S if case.manner is Manner.STALLS else HANG_S
    try:
        async with asyncio.timeout(limit_s):
            await _talk(host, port, found)
    except TimeoutError:
        found.trouble = f"no end within {limit_s:.0f} s ({len(found.answers)} answers came)"
    except ConnectionRefusedError:
        found.trouble = "connection refused"
    found.seconds = time.monotonic() - began_s
    return found


async def _talk(host: str, port: int, found: Talk) -> None:
    case = found.case
    reader, writer = await asyncio.open_connection(host, port, limit=2**24)
    sending = asyncio.create_task(_send(writer, case))
    try:
        match case.manner:
            case Manner.LEAVES:
                await sending
                await _leave(reader, writer, case)
            case Manner.READS:
                await _read_all(reader, found)
            case Manner.HEARS:
                await _hear(reader, writer, found)
            case Manner.STALLS:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    while (answer := await _answer(reader, "POST")) is not None:
                        found.answers.append(answer)
    finally:
        sending.cancel()
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(sending, return_exceptions=True)
            await writer.wait_closed()


async def _send(writer: asyncio.StreamWriter, case: Case) -> None:
    """A server may answer, and close, before it has heard everything."""
    with contextlib.suppress(ConnectionError):
        for number, piece in enumerate(case.pieces):
            if number and case.pause_s:
                await asyncio.sleep(case.pause_s)
            writer.write(piece)
            await writer.drain()


async def _leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, case: Case) -> None:
    with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
        if case.leaves_after_bytes:
            async with asyncio.timeout(2):
                await reader.readexactly(case.leaves_after_bytes)
    await asyncio.sleep(case.leaves_after_s)
    if case.is_abrupt:
        wire = writer.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


async def _read_all(reader: asyncio.StreamReader, found: Talk) -> None:
    for number, method in enumerate(found.case.methods):
        try:
            answer = await _answer(reader, method)
        except (ConnectionError, asyncio.IncompleteReadError, ValueError) as error:
            found.trouble = f"answer {number} is cut off or no HTTP: {error!r}"
            return
        if answer is None:
            found.trouble = f"the connection ended without answer {number}"
            return
        found.answers.append(answer)
        if not answer.is_whole:
            found.trouble = f"answer {number} ({answer.status}) has no end"
        if answer.headers.get("connection", "").lower() == "close":
            if number + 1 < len(found.case.methods) and answer.status not in (400, 408, 413, 431):
                found.trouble = f"closed after answer {number} of {len(found.case.methods)}"
            return


async def _hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, found: Talk) -> None:
    """Answers until the end of the connection; after a silence the client says that it is done."""
    method, has_left = found.case.methods[0], False
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        try:
            async with asyncio.timeout(_HEARS_S):
                begun = await reader.read(1)
        except TimeoutError:
            has_left = True
            writer.write_eof()
            begun = await reader.read(1)
        answer = await _answer(reader, method, begun) if begun else None
        if answer is not None and (answer.is_whole or not has_left):
            found.answers.append(answer)


async def _answer(reader: asyncio.StreamReader, method: str, begun: bytes = b"") -> Answer | None:
    """The next answer, of which `begun` was read; None: the connection ended.  Interim answers
    (1xx) are passed over."""
    while True:
        line, begun = begun + await reader.readline(), b""
        if not line:
            return None
        version, _, rest = line.decode("latin-1").partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise ValueError(f"no status line: {line[:80]!r}")
        headers: dict[str, str] = {}
        while (line := await reader.readline()).strip():
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise ValueError(f"no header: {line[:80]!r}")
            headers[name.lower()] = value.strip()
        answer = Answer(int(rest[:3]), headers)
        if answer.status >= 200:
            await _read_body(reader, method, answer)
            return answer


async def _read_body(reader: asyncio.StreamReader, method: str, answer: Answer) -> None:
    if method == "HEAD" or answer.status in (204, 304):
        return
    try:
        if answer.headers.get("transfer-encoding") == "chunked":
            answer.body = await _chunks(reader)
        elif "content-length" in answer.headers:
            answer.body = await reader.readexactly(int(answer.headers["content-length"]))
        else:
            answer.body = await reader.read()
    except (asyncio.IncompleteReadError, ConnectionError):
        answer.is_whole = False


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        line = await reader.readline()
        if not line:
            raise asyncio.IncompleteReadError(bytes(body), None)
        size = int(line, 16)
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk without an end")
        if not size:
            return bytes(body)
