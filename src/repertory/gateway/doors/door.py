"""The door: an ASGI application in front of all routes.  Knows no web framework.

1. A path that needs no key lets everybody in.
2. Without a file of keys everybody is the operator, where the server was started so; else nobody.
   On loopback, web pages from elsewhere are not everybody: 403.
3. The token is looked up; who has none, or a wrong one, gets 401.
4. A key that may not ask for this path gets 403.
5. A POST to the models takes of the key's rate and places; 429 with the seconds until there is
   room.
6. The application runs, and knows its caller.  Whatever way it ends, the place is given back.

Nothing here is on the way of a token: `send` is passed on as it came.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from repertory.domain.errors import ConfigError, Overloaded
from repertory.gateway.answer import send_whole
from repertory.gateway.doors.allowance import Allowances, Refusal, Ticket
from repertory.gateway.doors.caller import CALLER, NOBODY, OPERATOR, Caller
from repertory.gateway.doors.keys import KEYS_FILE, Key, KeyFile, Keyring
from repertory.gateway.doors.origin import foreign_in, is_loopback
from repertory.gateway.doors.rules import Access, access_of
from repertory.gateway.failures import Failure, failure_of, http_failure

__all__ = ["Door", "Guard", "Tally", "guard_of"]

_Message = MutableMapping[str, Any]  # ASGI's own type
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[MutableMapping[str, Any], _Receive, _Send], Awaitable[None]]

_CHALLENGE = {"www-authenticate": 'Bearer realm="repertory"'}


class Tally(Protocol):
    """Where refusals are counted."""

    def denied(self, reason: str) -> None: ...

    def limited(self, key: str, limit: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Guard:
    """What the door knows of keys."""

    keys: KeyFile | None = None
    """None: there never are keys (tests of what lies behind the door)."""
    is_open: bool = True
    """Everybody may come in while there is no file of keys: on loopback, or by `--no-auth`."""
    is_loopback: bool = False
    """Everybody is of this machine then, but for pages from elsewhere in its browsers."""

    def current(self) -> Keyring | None:
        return None if self.keys is None else self.keys.current()

    def names(self) -> frozenset[str]:
        """Of all keys there are."""
        ring = self.current()
        return frozenset() if ring is None else ring.names


def guard_of(state_dir: Path, host: str, has_no_auth: bool) -> Guard:
    """The rule for a server that is about to listen: never open to others by accident.

    1. There is a file of keys: it holds, on loopback too.
    2. Loopback: whoever reaches it has this machine.
    3. Others reach it: only if the operator says that nobody needs a key.
    """
    keys = KeyFile(state_dir / KEYS_FILE)
    is_local = is_loopback(host)
    is_open = has_no_auth or is_local
    if keys.current() is None and not is_open:
        raise ConfigError(
            f"{host} is reachable by others, and there are no API keys: make one with "
            f"'repertory keys add NAME --state-dir {state_dir}', or say --no-auth"
        )
    return Guard(keys, is_open, is_local)


class Door:
    """Lets in, or says why not."""

    def __init__(self, app: _App, guard: Guard, tally: Tally) -> None:
        self.app = app
        self._guard = guard
        self._tally = tally
        self._allowances = Allowances()
        self._ring: Keyring | None = None
        self._callers: dict[str, Caller] = {}
        """By key id, as of `_ring`."""

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return  # nothing else is served here
        entry = self._look(scope)
        if isinstance(entry, Failure):
            headers = entry.headers if entry.status != 401 else {**entry.headers, **_CHALLENGE}
            await send_whole(send, entry.status, entry.body, headers)
            return
        caller, ticket = entry
        before = CALLER.set(caller)
        try:
            await self.app(scope, receive, send)
        finally:
            CALLER.reset(before)
            if ticket is not None:
                ticket.release(_now_s())

    def denied(self, reason: str) -> None:
        """A request did not even come so far."""
        self._tally.denied(reason)

    def running(self) -> dict[str, int]:
        """Requests under way by the key's name."""
        ring = self._ring
        keys = () if ring is None else ring.keys
        return {key.name: self._allowances.running(key.id) for key in keys}

    def _look(self, scope: Mapping[str, Any]) -> tuple[Caller, Ticket | None] | Failure:
        """Steps 1 to 5."""
        access = access_of(scope["path"])
        ring = self._current_ring()
        if ring is None and self._guard.is_open:
            return self._of_this_machine(scope["headers"])
        key = None if ring is None else _owner(ring, scope["headers"])
        if key is None:
            if access is Access.ANYONE:
                return NOBODY, None
            return self._unknown(scope["headers"])
        caller = self._callers[key.id]
        if not key.admin and access is Access.ADMIN:
            return self._forbidden("admin", "This needs an admin key; yours is an API key.")
        if access is Access.READER and caller.models is not None:
            why = "This page is about all models; your key may use some of them only."
            return self._forbidden("reader", why)
        if access is not Access.CLIENT or scope["method"] != "POST":
            return caller, None
        return self._take(key, caller)

    def _of_this_machine(
        self, headers: Iterable[tuple[bytes, bytes]]
    ) -> tuple[Caller, None] | Failure:
        """Nobody is asked for a key.  Only where others are meant to come in may pages as well."""
        foreign = foreign_in(headers) if self._guard.is_loopback else None
        if foreign is None:
            return OPERATOR, None
        sign, value = foreign
        self._tally.denied(sign.value)
        return http_failure(403, sign.text(value), f"foreign_{sign.value}")

    def _take(self, key: Key, caller: Caller) -> tuple[Caller, Ticket] | Failure:
        taken = self._allowances.take(key, _now_s())
        if isinstance(taken, Ticket):
            return caller, taken
        self._tally.limited(key.name, taken.limit)
        return failure_of(Overloaded(_limit_text(key, taken), taken.retry_after_s))

    def _unknown(self, headers: Iterable[tuple[bytes, bytes]]) -> Failure:
        is_given = _token(headers) is not None
        self._tally.denied("wrong" if is_given else "missing")
        why = (
            "This API key is not known here; it may have been revoked."
            if is_given
            else "An API key is needed: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
        )
        return http_failure(401, why, "invalid_api_key")

    def _forbidden(self, reason: str, why: str) -> Failure:
        self._tally.denied(reason)
        return http_failure(403, why, "insufficient_permissions")

    def _current_ring(self) -> Keyring | None:
        ring = self._guard.current()
        if ring is not self._ring:
            self._ring = ring
            keys = () if ring is None else ring.keys
            self._callers = {key.id: _caller(key) for key in keys}
            self._allowances.keep_only(self._callers.keys())
        return ring


def _caller(key: Key) -> Caller:
    return Caller(key.name, None if key.models is None else frozenset(key.models))


def _owner(ring: Keyring, headers: Iterable[tuple[bytes, bytes]]) -> Key | None:
    token = _token(headers)
    return None if token is None else ring.find(token)


def _token(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """`Authorization: Bearer` wins over `x-api-key`.  Names come in lower case (ASGI)."""
    other = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            other = value.strip()
    return other


def _limit_text(key: Key, refusal: Refusal) -> str:
    if refusal.limit == "rate":
        return f"The key {key.name!r} may send {key.rate} requests; wait a little."
    return (
        f"The key {key.name!r} may have {key.concurrent} requests at a time; wait until one ends."
    )


def _now_s() -> float:
    return asyncio.get_running_loop().time()
