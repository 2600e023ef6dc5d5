"""The decision log of a real run: it can be replayed, and it explains every move."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from serving import FOUR, RunningServer, starting

from repertory.core.controller import Controller
from repertory.core.journal import Header, decode_event, encode, read_lines
from repertory.domain.decisions import Decision

NAMES = [name for name, *_ in FOUR]


@pytest.fixture(scope="module")
def played(four_models: Path, tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    """A server that swapped, refused, and lost a client; ended, so that its log is whole."""
    with starting(tmp_path_factory.mktemp("log") / "state") as begin:
        server = begin(four_models, memory="352MiB")
        with ThreadPoolExecutor(6) as clients:
            list(clients.map(lambda turn: complete(server, NAMES[turn % 4]), range(24)))
        server.post("/v1/completions", {"model": NAMES[0], "prompt": "x", "max_tokens": 10**6})
        leave_early(server, NAMES[1])
        server.wish(NAMES[2], "unload")
        server.wait_status(NAMES[2], "unloaded")
        server.stop()
    return server


def complete(server: RunningServer, model: str) -> str:
    body = {"model": model, "prompt": "to be or not", "max_tokens": 12, "ignore_eos": True}
    status, answer = server.post("/v1/completions", body)
    assert status == 200, answer
    return str(answer["id"])


def leave_early(server: RunningServer, model: str) -> None:
    wishes: Any = {"prompt": "x", "max_tokens": 2000, "extra_body": {"ignore_eos": True}}
    with server.client() as client:
        stream = client.completions.create(model=model, stream=True, **wishes)
        next(iter(stream))
        stream.close()


class Line(msgspec.Struct):
    """A decision's own part, as bytes; the event is an input, and may hold a set in any order."""

    step: int
    actions: msgspec.Raw
    verdicts: msgspec.Raw

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Line)
        mine, theirs = (self.actions, self.verdicts), (other.actions, other.verdicts)
        return self.step == other.step and [*map(bytes, mine)] == [*map(bytes, theirs)]


def test_a_fresh_brain_repeats_every_decision_to_the_byte(played: RunningServer) -> None:
    (path,) = played.log_files()
    lines = path.read_bytes().splitlines(keepends=True)
    header = msgspec.convert(json.loads(lines[0])["header"], Header)
    repeated: list[Decision] = []
    controller = Controller(header.settings, repeated.append)
    for entry in read_lines(lines):
        controller.handle(decode_event(entry))
    controller.check()
    again = [encode(one) for one in repeated]
    for mine, logged in zip(again, lines[1:], strict=True):
        assert msgspec.json.decode(mine, type=Line) == msgspec.json.decode(logged, type=Line)
    assert [decode_event(one) for one in read_lines(again)] == [
        decode_event(one) for one in read_lines(lines)
    ]
    assert len(repeated) > 100


def moves(server: RunningServer) -> list[dict[str, Any]]:
    """Every load and every step of an eviction, as logged."""
    entries = read_lines(server.log_files()[0].read_bytes().splitlines(keepends=True))
    actions = [action for entry in entries for action in entry["actions"]]
    return [one for one in actions if one["kind"] in ("Load", "Deactivate", "Unload")]


def test_why_explains_each_load_and_eviction_of_a_model(played: RunningServer) -> None:
    for name in NAMES:
        story = played.repertory("why", name, "--state-dir", str(played.state_dir))
        own = [one for one in moves(played) if one["model"] == name]
        assert own, "it was never moved"
        for move in own:
            assert f"#{move['action_id']} {move['kind'].lower()} {name}: took" in story, story
        assert "predicted" in story
        assert "measured" in story
        assert "option" in story
    stories = [
        played.repertory("why", name, "--state-dir", str(played.state_dir)) for name in NAMES
    ]
    assert any("makes room for" in story for story in stories), "nothing was ever evicted"


def test_why_explains_a_request(played: RunningServer) -> None:
    entries = read_lines(played.log_files()[0].read_bytes().splitlines(keepends=True))
    events = [entry["event"] for entry in entries]
    first = next(one["request"] for one in events if one["kind"] == "Arrived")
    story = played.repertory("why", first["id"], "--state-dir", str(played.state_dir))
    assert first["model"] in story
    assert "load" in story


def test_bytes_are_predicted_and_read_back(played: RunningServer) -> None:
    """Of each first load: weights within 5 % and 4 MiB of what the kernel says (worker.md)."""
    entries = list(read_lines(played.log_files()[0].read_bytes().splitlines(keepends=True)))
    specs = {
        entry["event"]["spec"]["name"]: entry["event"]["spec"]
        for entry in entries
        if entry["event"]["kind"] == "ModelAdded"
    }
    forms = {
        action["action_id"]: action
        for entry in entries
        for action in entry["actions"]
        if action["kind"] == "Load"
    }
    seen = set()
    for entry in entries:
        event = entry["event"]
        load = forms.get(event.get("action_id"))
        if event["kind"] != "TransitionDone" or load is None:
            continue
        spec = specs[load["model"]]
        wanted = spec["weights_bytes"] + spec["handle_bytes"]
        if load["placement"]["form"] == "plain":
            error = abs(event["measured"]["weights_bytes"] - wanted)
            assert error <= 0.05 * wanted + (4 << 20), (load["model"], error)
        seen.add(load["model"])
    assert seen == set(NAMES)
