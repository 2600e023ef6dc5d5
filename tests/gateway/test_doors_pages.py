"""Web pages from elsewhere at a loopback server without keys; programs notice nothing."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
from asgi_client import CHAT, Client, Reply, chat_body, run_virtually
from door_client import wish
from fake_service import FakeService

from repertory.gateway.app import build_app
from repertory.gateway.doors.door import Door, guard_of
from repertory.gateway.doors.keys import add_key
from repertory.gateway.doors.origin import Foreign, foreign_in

HERE = (b"host", b"127.0.0.1:7373")
OWN = [
    "http://localhost",
    "https://localhost:5173",
    "http://LocalHost:3000",
    "http://127.0.0.1:8080",
    "http://127.8.9.1",
    "http://[::1]:7373",
]
ELSEWHERE = [
    "null",
    "",
    "https://evil.example",
    "http://localhost.evil.example",
    "http://evil.example:7373",
    "http://localhost@evil.example",
    "http://evil.example/localhost",
    "http://127.0.0.1.evil.example",
    "http://192.168.1.2",
    "http://0.0.0.0:7373",
    "http://[::]:7373",
    "http://[fe80::1]",
    "http://localhost:1:2",
    "http://localhost\n",
    "chrome-extension://localhost",
    "file://",
    "localhost",
]
NAMES = ["localhost", "localhost:7373", "127.0.0.1", "127.0.0.1:80", "[::1]:7373", "LOCALHOST:1"]
OTHER_NAMES = [
    "evil.example",
    "evil.example:7373",
    "localhost.evil.example",
    "0.0.0.0:7373",
    "[::]",
]


def door_at(folder: Path, host: str, *, has_no_auth: bool = False) -> tuple[Door, FakeService]:
    service = FakeService()
    guard = guard_of(folder, host, has_no_auth)
    return build_app(service, random=Random(7), unix_s=lambda: 0.0, guard=guard), service


def asked(door: Door, *headers: tuple[bytes, bytes], path: str = CHAT) -> Reply:
    """What a client that sends exactly these headers gets."""

    async def sent(scope: Any, receive: Any, send: Any) -> None:
        scope["headers"] = list(headers)
        await door(scope, receive, send)

    client = Client(sent)
    if path == CHAT:
        return run_virtually(client.post(path, chat_body()))
    return run_virtually(client.get(path))


@pytest.mark.parametrize("origin", OWN)
def test_pages_of_this_machine_come_in(origin: str) -> None:
    assert foreign_in([HERE, (b"origin", origin.encode())]) is None


@pytest.mark.parametrize("origin", ELSEWHERE)
def test_pages_from_elsewhere_do_not(origin: str) -> None:
    assert foreign_in([HERE, (b"origin", origin.encode())]) == (Foreign.ORIGIN, origin)


@pytest.mark.parametrize("name", NAMES)
def test_loopback_names_are_ours(name: str) -> None:
    assert foreign_in([(b"host", name.encode())]) is None


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_name_that_was_made_to_point_here_is_not_ours(name: str) -> None:
    assert foreign_in([(b"host", name.encode())]) == (Foreign.HOST, name)
    assert foreign_in([HERE, (b"host", name.encode())]) == (Foreign.HOST, name), "nor a second one"


@pytest.mark.parametrize("header", [b"origin", b"host"])
def test_bytes_that_are_no_text_are_foreign(header: bytes) -> None:
    assert foreign_in([(header, b"\xff\xfe\x00")]) is not None


def test_a_refused_page_reaches_nothing_and_is_counted(tmp_path: Path) -> None:
    door, service = door_at(tmp_path, "127.0.0.1")
    page = asked(door, HERE, (b"origin", b"https://evil.example"))
    rebound = asked(door, (b"host", b"evil.example:7373"))
    for reply, code in ((page, "foreign_origin"), (rebound, "foreign_host")):
        assert reply.status == 403
        error = reply.json["error"]
        assert error["code"] == code
        assert "evil.example" in error["message"]
        assert "localhost" in error["message"], "what to do"
    for path in ("/health", "/metrics", "/admin/ps", "/v1/models"):
        assert asked(door, HERE, (b"origin", b"null"), path=path).status == 403
    assert service.asked == []
    metrics = asked(door, HERE, path="/metrics").body.decode()
    assert 'repertory_denied_requests_total{reason="origin"} 5.0' in metrics
    assert 'repertory_denied_requests_total{reason="host"} 1.0' in metrics


def test_a_refusal_repeats_little_of_a_header(tmp_path: Path) -> None:
    door, _ = door_at(tmp_path, "127.0.0.1")
    reply = asked(door, HERE, (b"origin", b"https://" + b"e" * 9000))
    assert (reply.status, len(reply.body) < 1000) == (403, True)


def test_programs_and_pages_of_this_machine_are_answered(tmp_path: Path) -> None:
    door, _ = door_at(tmp_path, "localhost")
    assert asked(door).status == 200, "HTTP/1.0 needs no name"
    assert asked(door, HERE).status == 200
    assert asked(door, HERE, (b"origin", b"http://localhost:5173")).status == 200


def test_a_server_for_others_has_names_that_we_do_not_know(tmp_path: Path) -> None:
    door, _ = door_at(tmp_path, "0.0.0.0", has_no_auth=True)
    reply = asked(door, (b"host", b"gpu-box:7373"), (b"origin", b"https://chat.example"))
    assert reply.status == 200, "the operator said that nobody needs a key"


def test_with_keys_the_key_decides(tmp_path: Path) -> None:
    door, _ = door_at(tmp_path, "127.0.0.1")
    token = add_key(tmp_path / "keys.json", wish("alice"))
    page = (HERE, (b"origin", b"https://chat.example"))
    assert asked(door, *page).status == 401
    assert asked(door, *page, (b"authorization", f"Bearer {token}".encode())).status == 200
