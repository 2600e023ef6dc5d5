"""What a server says: one line each, for people or for machines, and never in the way."""

import io
import json
import logging
import threading

import msgspec
import pytest

from repertory.reports import prose
from repertory.reports.prose import LogFormat, speaking


def spoken(monkeypatch: pytest.MonkeyPatch, log_format: LogFormat) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with speaking(log_format) as voice:
        voice.say("serving 2 models")
        logging.getLogger("repertory.live").warning("the worker %s", "died")
        logging.getLogger("repertory.live").debug("nobody wants to know")
        logging.getLogger("elsewhere").info("nor this")
        story = msgspec.json.encode({"request": "r1", "status": 200, "ttft_s": 0.5}).decode()
        logging.getLogger("repertory.gateway.requests").info("%s", story)
        try:
            raise ValueError("oh")
        except ValueError:
            logging.getLogger("repertory").exception("a bug")
    return stream.getvalue().splitlines()


def test_text_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = spoken(monkeypatch, "text")
    assert lines[0] == "serving 2 models"
    assert lines[1].endswith("WARNING repertory.live: the worker died")
    assert lines[2].endswith('{"request":"r1","status":200,"ttft_s":0.5}')
    assert lines[-1] == "ValueError: oh"


def test_json_is_one_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [json.loads(line) for line in spoken(monkeypatch, "json")]
    assert [entry["message"] for entry in entries] == [
        "serving 2 models",
        "the worker died",
        "request",
        "a bug",
    ]
    assert [entry["level"] for entry in entries] == ["info", "warning", "info", "error"]
    assert entries[0].keys() == {"time", "level", "logger", "message"}
    assert entries[0]["time"].endswith("Z")
    assert (entries[2]["request"], entries[2]["status"], entries[2]["ttft_s"]) == ("r1", 200, 0.5)
    assert "ValueError: oh" in entries[3]["exception"]


def test_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(logging.getLogger().handlers)
    spoken(monkeypatch, "json")
    assert logging.getLogger().handlers == before
    assert not [one for one in threading.enumerate() if one.name == "prose"]


class Stalled(io.StringIO):
    """A pipe that nobody reads, until somebody does."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stuck = threading.Event()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.is_stuck.set()
        assert self.go_on.wait(60)
        return super().write(text)


def test_a_reader_that_stalls_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prose, "_WAITING", 3)
    stream = Stalled()
    monkeypatch.setattr("sys.stderr", stream)
    with speaking("text") as voice:
        voice.say("first")
        assert stream.is_stuck.wait(60)
        for at in range(10):
            voice.say(f"line {at}")
        stream.go_on.set()
    lines = stream.getvalue().splitlines()
    assert lines[:4] == ["first", "line 0", "line 1", "line 2"]
    assert lines[4:] == ["7 lines are missing here: nobody read them in time"]
