"""The application behind a real socket on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asgi_client import app_of
from fake_service import FakeService

from repertory.gateway import Limits, Listener, Waiting, open_socket

IMPATIENT = Waiting(whole_grace_s=0.01, keep_alive_s=0.01, progress_s=0.01)
"""Signs of life at once: a test that waits for one waits for nothing else."""


@asynccontextmanager
async def listening(service: FakeService, waiting: Waiting | None = None) -> AsyncIterator[str]:
    """The base URL that clients are given."""
    app = _noting_spaces(app_of(service, Limits(waiting=waiting or Waiting())), service)
    listener = Listener(app, open_socket("127.0.0.1", 0), drain_s=1)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(listener.serve())
        await listener.accepting()
        yield f"http://127.0.0.1:{listener.port}/v1"
        listener.stop()


def _noting_spaces(app: Any, service: FakeService) -> Any:
    """Sets `service.spaced` when a space or a comment was sent ahead of an answer."""

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            await send(message)
            if message.get("body") in (b" ", b": keep-alive\n\n"):
                service.spaced.set()

        await app(scope, receive, note)

    return noting
