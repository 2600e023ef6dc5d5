"""`repertory keys` as a person types it, and the file that it leaves."""

import base64
import json
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repertory.cli import main
from repertory.domain.errors import ConfigError
from repertory.gateway.doors.keys import Key, KeyFile, add_key, read_keys
from test_cli import STATUS, serving

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REPERTORY_HOST", "REPERTORY_PORT", "REPERTORY_STATE_DIR", "REPERTORY_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))
    monkeypatch.setenv("COLUMNS", "240")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state-home" / "repertory"


def add(capsys: Output, *arguments: str) -> str:
    assert main(["keys", "add", *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_a_key_is_shown_once_and_only_its_hash_is_kept(folder: Path, capsys: Output) -> None:
    token = add(capsys, "alice")
    kind, _, secret = token.split("-", 2)
    assert kind == "rp"
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32
    path = folder / "keys.json"
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in folder.iterdir() if one.suffix == ".new"] == []
    ring = KeyFile(path).current()
    assert ring is not None
    found = ring.find(token.encode())
    assert found is not None
    assert found.name == "alice"
    assert main(["keys", "list"]) == 0
    assert secret not in capsys.readouterr().out


def test_keys_are_listed_with_what_they_may_do(capsys: Output) -> None:
    add(capsys, "alice", "--models", "coder,writer", "--rate", "60/min", "--concurrent", "4")
    add(capsys, "root", "--admin")
    assert main(["keys", "list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:5] == ["alice", "API", "coder,writer", "60/min", "4"]
    assert rows[2][:5] == ["root", "admin", "all", "-", "-"]
    assert main(["keys", "list", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["admin"], one["concurrent"]) for one in made] == [
        ("alice", False, 4),
        ("root", True, None),
    ]
    assert {"hash", "salt", "id"}.isdisjoint(made[0])


def test_a_removed_key_is_gone_and_the_last_one_leaves_a_locked_door(
    folder: Path, capsys: Output
) -> None:
    add(capsys, "alice")
    assert main(["keys", "remove", "bob"]) == 4
    assert "no key 'bob'" in capsys.readouterr().err
    assert main(["keys", "remove", "alice"]) == 0
    assert f"delete {folder / 'keys.json'}" in capsys.readouterr().err
    assert read_keys(folder / "keys.json") == ()
    assert KeyFile(folder / "keys.json").current() is not None
    assert main(["keys", "remove", "alice"]) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["alice", "--rate", "60"], "60/min"),
        (["alice", "--concurrent", "0"], "--concurrent"),
        (["alice", "--models", ","], "--models"),
        (["alice", "--admin", "--rate", "1/s"], "may do everything"),
        (["../alice"], "no name for a key"),
        (["a" * 65], "no name for a key"),
        (["taken"], "already"),
    ],
)
def test_wishes_that_cannot_be_are_refused(
    arguments: list[str], words: str, folder: Path, capsys: Output
) -> None:
    add(capsys, "taken")
    before = (folder / "keys.json").read_bytes()
    assert main(["keys", "add", *arguments]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.out == ""
    assert (folder / "keys.json").read_bytes() == before


def test_the_first_keys_without_an_admin_say_what_is_missing(capsys: Output) -> None:
    assert main(["keys", "add", "alice"]) == 0
    assert "--admin" in capsys.readouterr().err
    assert main(["keys", "add", "root", "--admin"]) == 0
    assert "--admin" not in capsys.readouterr().err


def test_another_state_folder_has_other_keys(tmp_path: Path, capsys: Output) -> None:
    other = tmp_path / "other"
    add(capsys, "alice", "--state-dir", str(other))
    assert main(["keys", "list", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"
    assert [key.name for key in read_keys(other / "keys.json")] == ["alice"]


def test_two_commands_at_once_lose_no_key(folder: Path) -> None:
    path = folder / "keys.json"
    start = threading.Barrier(4)

    def adding(name: str) -> None:
        start.wait()
        for number in range(5):
            add_key(path, Key(f"{name}{number}", "", "", "", 0))

    threads = [threading.Thread(target=adding, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(path)) == 20


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: {**file, "version": 2},
        lambda file: {**file, "more": 1},
        lambda file: {"version": 1, "keys": [{**file["keys"][0], "hash": "zz"}]},
        lambda file: {"version": 1, "keys": [{**file["keys"][0], "id": "short"}]},
        lambda file: {"version": 1, "keys": [{**file["keys"][0], "rate": "often"}]},
        lambda file: {"version": 1, "keys": [{**file["keys"][0], "concurrent": 0}]},
        lambda file: {"version": 1, "keys": [{**file["keys"][0], "name": "a b"}]},
        lambda file: {"version": 1, "keys": [{**file["keys"][0], "modles": ["a"]}]},
        lambda _: [],
    ],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(
    damage: Any, folder: Path, capsys: Output
) -> None:
    add(capsys, "alice")
    path = folder / "keys.json"
    broken = json.dumps(damage(json.loads(path.read_text())))
    path.write_text(broken)
    with pytest.raises(ConfigError):
        read_keys(path)
    assert main(["keys", "add", "bob"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert path.read_text() == broken


def test_serve_refuses_to_be_reachable_without_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    served = serving(monkeypatch)
    line = ["serve", str(tmp_path), "--host", "0.0.0.0", "--port", "0", "--memory", "3GiB"]
    assert main(line) == 2
    assert "repertory keys add" in capsys.readouterr().err
    assert served == []
    assert main([*line, "--no-auth"]) == 0
    add(capsys, "alice")
    assert main(line) == 0
    assert len(served) == 2


@contextmanager
def locked_server(token: str) -> Iterator[str]:
    """A server that shows its status to whoever has the key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.headers.get("authorization") == f"Bearer {token}"
            self.send_response(200 if is_known else 401)
            self.end_headers()
            self.wfile.write(msgspec.json.encode(STATUS) if is_known else b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_ps_shows_its_key_and_says_what_to_do_without(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    with locked_server("rp-right") as url:
        assert main(["ps", "--url", url]) == 1
        assert "no key was sent; set REPERTORY_API_KEY" in capsys.readouterr().err
        monkeypatch.setenv("REPERTORY_API_KEY", "rp-wrong")
        assert main(["ps", "--url", url]) == 1
        shown = capsys.readouterr().err
        assert "this key may not" in shown
        assert "rp-wrong" not in shown
        monkeypatch.setenv("REPERTORY_API_KEY", "rp-right")
        assert main(["ps", "--url", url]) == 0
        assert "coder" in capsys.readouterr().out
