"""Web pages from elsewhere, at a loopback server that asks nobody for a key.

A browser carries out what any page says, and it reaches loopback.  Two headers tell who is behind
it, and a page can change neither:
1. `Origin`: a page of another site posts here.  Programs send none.
2. `Host`: the name that the page's own site was reached by, when that name was made to point here
   (DNS rebinding): to the browser the page and this server are one site then.
"""

import re
from collections.abc import Iterable
from enum import Enum
from ipaddress import ip_address

__all__ = ["Foreign", "foreign_in", "is_loopback"]

_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]/@]+))(?::[0-9]*)?", re.ASCII)
_ORIGIN = re.compile(r"https?://(.*)", re.DOTALL)
_SHOWN = 80
"""Characters of a header that a refusal repeats."""


class Foreign(Enum):
    """What tells that a request was made elsewhere.  The values are the reasons in the metrics."""

    ORIGIN = "origin"
    HOST = "host"

    def text(self, value: str) -> str:
        """Why this is refused, and what to do."""
        shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
        if self is Foreign.ORIGIN:
            return (
                f"Pages of {shown!r} may not use this server: it asks for no key, and so takes "
                "requests only from programs and from pages served from localhost."
            )
        return (
            f"This server is not {shown!r}: it asks for no key, and so answers only to loopback "
            "names, such as localhost or 127.0.0.1. Ask for one of them (a proxy in front of it "
            "sends it as 'Host'), or make a key with 'repertory keys add NAME'."
        )


def foreign_in(headers: Iterable[tuple[bytes, bytes]]) -> tuple[Foreign, str] | None:
    """What is foreign about a request, and the header's value; None: nothing is.

    Names come in lower case (ASGI).  A header that is missing is nothing: browsers send both.
    """
    for name, value in headers:
        if name == b"origin" and not _is_loopback_origin(text := value.decode("latin-1")):
            return Foreign.ORIGIN, text
        if name == b"host" and not _is_loopback_authority(text := value.decode("latin-1")):
            return Foreign.HOST, text
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at that name or address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_loopback_origin(value: str) -> bool:
    """`null` is none: that is what a sandboxed frame of any site sends."""
    parts = _ORIGIN.fullmatch(value.lower())
    return parts is not None and _is_loopback_authority(parts[1])


def _is_loopback_authority(value: str) -> bool:
    """A host with or without a port."""
    parts = _AUTHORITY.fullmatch(value.lower())
    return parts is not None and is_loopback(parts[1] or parts[2])
