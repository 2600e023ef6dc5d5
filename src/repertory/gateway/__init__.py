"""HTTP: wire types, dialects, streaming."""

from repertory.gateway.answer import Waiting
from repertory.gateway.app import Limits, build_app
from repertory.gateway.listener import Listener, open_socket

__all__ = ["Limits", "Listener", "Waiting", "build_app", "open_socket"]
