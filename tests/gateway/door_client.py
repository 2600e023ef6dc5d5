"""An application behind a door with keys, and a client that shows one."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from asgi_client import Client, Reply, run_virtually
from fake_service import FakeService

from repertory.gateway.app import build_app
from repertory.gateway.doors.door import Door, Guard
from repertory.gateway.doors.keys import KEYS_FILE, Key, KeyFile, add_key

App = Callable[..., Awaitable[None]]


def wish(name: str, **limits: Any) -> Key:
    return Key(name, "", "", "", 1_700_000_000, **limits)


def showing(app: App, token: str | None, header: str = "authorization") -> App:
    """The application as somebody with this token reaches it."""

    async def shown(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if token is not None:
            value = f"Bearer {token}" if header == "authorization" else token
            scope["headers"] = [*scope["headers"], (header.encode(), value.encode())]
        await app(scope, receive, send)

    return shown


@dataclass
class House:
    """A server with keys, and what lies in its state folder."""

    folder: Path
    service: FakeService
    door: Door

    @property
    def keys(self) -> Path:
        return self.folder / KEYS_FILE

    def add(self, name: str, **limits: Any) -> str:
        return add_key(self.keys, wish(name, **limits))

    def client(self, token: str | None, header: str = "authorization", **more: Any) -> Client:
        return Client(showing(self.door, token, header), **more)

    def ask(self, method: str, path: str, token: str | None = None, body: bytes = b"") -> Reply:
        return run_virtually(self.client(token).send(method, path, body))


def house(folder: Path, service: FakeService | None = None, is_open: bool = True) -> House:
    service = service or FakeService()
    guard = Guard(KeyFile(folder / KEYS_FILE), is_open)
    door = build_app(service, random=Random(7), unix_s=lambda: 1_700_000_000.9, guard=guard)
    return House(folder, service, door)


async def settled() -> None:
    """Every callback that is ready has run."""
    for _ in range(20):
        await asyncio.sleep(0)
