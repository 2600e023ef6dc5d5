"""The door: who comes in, what they see, and that a place is given back whatever happens."""

import asyncio
import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from asgi_client import CHAT, PLAIN, Reply, chat_body, run_virtually
from door_client import House, house
from fake_service import STATUS, FakeService, model_status, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.domain.errors import ConfigError
from repertory.domain.requests import FinishReason
from repertory.gateway.app import routes_of
from repertory.gateway.doors.allowance import Allowances, Refusal, Ticket
from repertory.gateway.doors.door import guard_of
from repertory.gateway.doors.keys import Key, Rate, add_key, remove_key
from repertory.gateway.doors.rules import RULES, Access, Kind, access_of, answer_to
from repertory.live.facade import Piece

BODY: dict[str, Any] = {
    "model": "coder",
    "messages": [{"role": "user", "content": "hi"}],
    "prompt": "hi",
    "input": "hi",
    "content": "hi",
    "text": "hi",
    "tokens": [1],
}
"""What any endpoint takes, unknown fields being ignored."""


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


def chat(home: House, token: str | None, **fields: Any) -> Reply:
    return home.ask("POST", CHAT, token, json.dumps(chat_body(**fields)).encode())


# Who comes in


def test_without_a_file_of_keys_everybody_does_everything(home: House) -> None:
    assert home.ask("GET", "/admin/ps").status == 200
    assert chat(home, None).status == 200
    assert chat(home, "anything").status == 200, "clients send a key where none is needed"


def test_a_server_for_others_is_locked_while_there_is_no_file(tmp_path: Path) -> None:
    home = house(tmp_path, is_open=False)
    assert chat(home, None).status == 401
    assert home.ask("GET", "/health").status == 200
    assert chat(home, home.add("alice")).status == 200


def test_keys_count_from_the_moment_they_are_added_and_until_they_are_removed(home: House) -> None:
    assert chat(home, None).status == 200
    token = home.add("alice")
    assert chat(home, None).status == 401
    assert chat(home, token).status == 200
    remove_key(home.keys, "alice")
    assert chat(home, token).status == 401
    assert chat(home, None).status == 401, "whoever revokes the last key opens nothing"
    home.keys.unlink()
    assert chat(home, None).status == 200


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_a_key_comes_in_either_header(home: House, header: str) -> None:
    token = home.add("alice")
    client = home.client(token, header)
    assert run_virtually(client.post(CHAT, chat_body())).status == 200


@pytest.mark.parametrize(
    "wrong",
    ["", "rp", "rp-", "rp--", "rp-0123456789abcdef-x", "x" * 5000, "ключ", "rp-\x00", "Bearer"],
)
def test_what_is_no_key_is_401_in_openais_shape(home: House, wrong: str) -> None:
    home.add("alice")
    reply = chat(home, wrong)
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert reply.json["error"]["code"] == "invalid_api_key"
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}


def test_a_token_that_is_almost_right_is_wrong(home: House) -> None:
    token = home.add("alice")
    for at in (0, 3, 18, 19, len(token) - 1):
        other = "A" if token[at] != "A" else "B"
        assert chat(home, token[:at] + other + token[at + 1 :]).status == 401
    assert chat(home, token + "A").status == 401
    assert chat(home, token[:-1]).status == 401


def test_another_scheme_is_no_key(home: House) -> None:
    token = home.add("alice")
    client = home.client(None)
    inner = client.app

    async def basic(scope: Any, receive: Any, send: Any) -> None:
        scope["headers"] = [(b"authorization", b"Basic abc"), (b"x-api-key", token.encode())]
        await inner(scope, receive, send)

    client.app = basic
    assert run_virtually(client.post(CHAT, chat_body())).status == 200, "the other header has it"


def test_a_file_that_breaks_changes_nothing_and_is_said(
    home: House, caplog: pytest.LogCaptureFixture
) -> None:
    token = home.add("alice")
    assert chat(home, token).status == 200
    home.keys.write_text("{")
    with caplog.at_level(logging.ERROR):
        assert (chat(home, token).status, chat(home, None).status) == (200, 401)
        assert chat(home, token).status == 200
    assert len(caplog.records) == 1, "once, not with every request"


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("gpu-box", False),
    ],
)
def test_a_server_that_others_reach_needs_keys_or_a_word(
    host: str, is_loopback: bool, tmp_path: Path
) -> None:
    if is_loopback:
        assert guard_of(tmp_path, host, False).is_open
    else:
        with pytest.raises(ConfigError, match="repertory keys add"):
            guard_of(tmp_path, host, False)
        assert guard_of(tmp_path, host, True).is_open
    add_key(tmp_path / "keys.json", Key("alice", "", "", "", 0))
    assert guard_of(tmp_path, host, False).is_open is is_loopback


def test_a_damaged_file_of_keys_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text('{"version": 9, "keys": []}')
    with pytest.raises(ConfigError, match="version 9"):
        guard_of(tmp_path, "127.0.0.1", False)


# The matrix


def tokens(home: House) -> dict[Kind, str | None]:
    made = {
        Kind.NONE: None,
        Kind.WRONG: "rp-0123456789abcdef-nothing",
        Kind.KEY: home.add("key"),
        Kind.LIMITED: home.add("limited", models=("writer",)),
        Kind.ADMIN: home.add("admin", admin=True),
        Kind.REVOKED: home.add("revoked"),
    }
    remove_key(home.keys, "revoked")
    return made


def test_the_running_application_answers_as_the_matrix_says(home: House) -> None:
    made = tokens(home)
    for method, pattern in routes_of(home.door):
        path = pattern.replace("{name:path}", "coder").replace("{wish:str}", "load")
        assert "{" not in path, f"say here what stands for the parameters of {pattern}"
        unknown = {"prompt"} if "chat" in path else {"messages"}
        body = json.dumps({key: BODY[key] for key in BODY.keys() - unknown}).encode()
        for kind, token in made.items():
            reply = home.ask(method, path, token, body)
            said = answer_to(method, pattern, kind)
            story = (method, path, kind, reply.status, reply.body)
            if said == "passes":
                assert reply.status not in (401, 403, 404), story
                continue
            assert reply.status == int(said), story
            if said == "404":
                assert reply.json["error"]["code"] == "model_not_found", story


def test_every_route_has_a_rule_of_its_own(home: House) -> None:
    for _, path in routes_of(home.door):
        assert path.split("/")[1] in RULES, f"{path} needs a rule in doors/rules.py"


@pytest.mark.parametrize("path", ["/", "//v1/models", "/V1/models", "/new", "/debug/pprof", "x"])
def test_a_path_without_a_rule_is_an_operators(path: str) -> None:
    assert access_of(path) is Access.ADMIN


# What they see


def test_a_model_of_others_is_as_unknown_as_one_that_does_not_exist(home: House) -> None:
    token = home.add("limited", models=("writer",))
    messages = []
    for name in ("coder", "codr", "gpt-4o-mini"):
        reply = chat(home, token, model=name)
        assert reply.status == 404
        messages.append(reply.json["error"]["message"].replace(repr(name), "NAME"))
    assert len(set(messages)) == 1, "near names would tell"
    assert home.service.asked == []
    assert chat(home, token, model="writer").status == 200


def test_a_key_may_name_a_model_by_its_alias(home: House) -> None:
    token = home.add("limited", models=("gpt-4o-mini",))
    assert chat(home, token, model="coder").status == 200


def test_lists_and_health_show_what_the_key_may_use(home: House) -> None:
    limited, full = home.add("limited", models=("writer",)), home.add("full")
    home.service.change(faults=("writer: damaged", "coder: too large", "local: killed"))
    models = home.ask("GET", "/v1/models", limited).json["data"]
    assert [one["id"] for one in models] == ["writer"]
    assert len(home.ask("GET", "/v1/models", full).json["data"]) == 2
    faults = {who: home.ask("GET", "/health", who).json["faults"] for who in (None, limited, full)}
    assert faults == {None: [], limited: ["writer: damaged"], full: [*home.service.current.faults]}
    anonymous = home.ask("GET", "/health").json
    assert (anonymous["status"], anonymous["running"], anonymous["waiting"]) == ("ok", 0, 0)
    home.service.change(is_ready=False)
    assert home.ask("GET", "/health").status == 503, "balancers need no key"


def test_generations_and_metrics_and_logs_know_the_key_and_no_text(
    home: House, caplog: pytest.LogCaptureFixture
) -> None:
    token = home.add("alice")
    with caplog.at_level(logging.INFO, "repertory.gateway.requests"):
        reply = chat(home, token, messages=[{"role": "user", "content": "a secret prompt"}])
    assert reply.status == 200
    assert home.service.asked[0].options.key == "alice"
    (record,) = caplog.records
    line = json.loads(record.message)
    assert (line["key"], line["model"], line["outcome"]) == ("alice", "coder", "done")
    assert {"admission_s", "queue_s", "prefill_s", "decode_s", "ttft_s", "total_s"} <= line.keys()
    assert "secret" not in caplog.text
    assert token not in caplog.text
    page = home.ask("GET", "/metrics", token).body.decode()
    assert 'repertory_requests_total{key="alice",model="coder",outcome="done"} 1.0' in page
    assert 'repertory_key_requests{key="alice"} 0.0' in page
    remove_key(home.keys, "alice")
    admin = home.add("admin", admin=True)
    assert "alice" not in home.ask("GET", "/metrics", admin).body.decode()


# Limits


def test_over_its_rate_a_key_is_told_when_to_come_back(home: House) -> None:
    token = home.add("alice", rate="2/min")

    async def main() -> list[Reply]:
        replies = [await home.client(token).post(CHAT, chat_body()) for _ in range(3)]
        wait_s = int(replies[2].headers["retry-after"])
        await asyncio.sleep(wait_s)
        replies += [await home.client(token).post(CHAT, chat_body()) for _ in range(2)]
        return [*replies, await home.client(token).get("/v1/models")]

    replies = run_virtually(main())
    assert [each.status for each in replies] == [200, 200, 429, 200, 429, 200]
    assert replies[2].headers["retry-after"] == "30"
    assert replies[2].json["error"]["code"] == "rate_limit_exceeded"
    assert "2/min" in replies[2].json["error"]["message"]


def test_a_key_made_anew_begins_anew(home: House) -> None:
    old = home.add("alice", rate="1/d")
    assert [chat(home, old).status for _ in range(2)] == [200, 429]
    remove_key(home.keys, "alice")
    new = home.add("alice", rate="1/d")
    assert [chat(home, new).status for _ in range(2)] == [200, 429]


def test_a_limit_that_is_changed_in_the_file_holds_from_the_next_request(home: House) -> None:
    token = home.add("alice", rate="1/d")
    assert [chat(home, token).status for _ in range(2)] == [200, 429]
    file = json.loads(home.keys.read_text())
    del file["keys"][0]["rate"]
    home.keys.write_text(json.dumps(file))
    assert [chat(home, token).status for _ in range(3)] == [200, 200, 200]


def test_what_is_refused_is_counted(home: House) -> None:
    token, admin = home.add("alice", rate="1/h"), home.add("admin", admin=True)
    for key in (token, token, None, "wrong"):
        chat(home, key)
    home.ask("GET", "/admin/ps", token)
    page = home.ask("GET", "/metrics", admin).body.decode()
    assert 'repertory_limited_requests_total{key="alice",limit="rate"} 1.0' in page
    for reason in ("missing", "wrong", "admin"):
        assert f'repertory_denied_requests_total{{reason="{reason}"}} 1.0' in page


@given(
    count=st.integers(1, 5),
    per_s=st.sampled_from([1.0, 60.0, 3600.0]),
    gaps_s=st.lists(st.floats(0, 100), max_size=40),
)
def test_no_rate_is_ever_exceeded_and_waiting_as_told_always_helps(
    count: int, per_s: float, gaps_s: list[float]
) -> None:
    unit = {1.0: "s", 60.0: "min", 3600.0: "h"}[per_s]
    key = Key("k", "0" * 16, "", "", 0, rate=f"{count}/{unit}")
    allowances, now_s = Allowances(), 0.0
    for taken, gap_s in enumerate(gaps_s):
        now_s += gap_s
        entry = allowances.take(key, now_s)
        if isinstance(entry, Refusal):
            assert 0 < entry.retry_after_s <= per_s / count + 1e-6
            now_s += entry.retry_after_s + 1e-6 * per_s
            entry = allowances.take(key, now_s)
        assert isinstance(entry, Ticket)
        assert taken + 1 <= count + now_s * count / per_s + 1e-3


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=80), st.integers(1, 4))
def test_places_are_never_more_than_allowed_and_each_is_given_back_once(
    steps: list[tuple[bool, int]], most: int
) -> None:
    key = Key("k", "0" * 16, "", "", 0, concurrent=most)
    allowances, held, past = Allowances(), [], []
    for at, (is_taking, which) in enumerate(steps):
        if is_taking:
            entry = allowances.take(key, float(at))
            assert isinstance(entry, Ticket) is (len(held) < most)
            if isinstance(entry, Ticket):
                held.append(entry)
            else:
                assert entry.retry_after_s >= 1.0
        elif held or past:
            everyone = [*held, *past]
            one = everyone[which % len(everyone)]
            one.release(float(at))
            if one in held:
                held.remove(one)
                past.append(one)
        assert allowances.running(key.id) == len(held) <= most


def test_a_place_is_free_when_the_oldest_has_taken_its_usual_time() -> None:
    key = Key("k", "0" * 16, "", "", 0, concurrent=1)
    allowances = Allowances()
    first = allowances.take(key, 0.0)
    assert isinstance(first, Ticket)
    first.release(20.0)
    assert isinstance(allowances.take(key, 30.0), Ticket)
    refusal = allowances.take(key, 35.0)
    assert refusal == Refusal("concurrent", 15.0)


STAGES = ("admission", "before a token", "amid tokens", "while it reads nothing", "never")


@settings(max_examples=60, deadline=None)
@given(
    ways=st.lists(
        st.tuples(st.sampled_from(STAGES), st.booleans(), st.sampled_from([CHAT, PLAIN])),
        min_size=1,
        max_size=6,
    ),
    failing=st.booleans(),
)
def test_whatever_way_a_request_ends_its_place_is_given_back_once(
    tmp_path_factory: pytest.TempPathFactory,
    ways: list[tuple[str, bool, str]],
    failing: bool,
) -> None:
    home = house(tmp_path_factory.mktemp("home"))
    token = home.add("alice", concurrent=1)

    async def main() -> None:
        for stage, is_streaming, path in ways:
            await _one(home, token, stage, {"path": path, "stream": is_streaming}, failing)
            assert home.door.running() == {"alice": 0}, (stage, is_streaming)
        last = await home.client(token).post(CHAT, chat_body())
        assert last.status == (500 if failing else 200)

    run_virtually(main())


async def _one(home: House, token: str, stage: str, how: dict[str, Any], failing: bool) -> None:
    """A request whose client leaves at that stage; a second one meanwhile finds no place."""
    hold = asyncio.Event()
    error: tuple[Any, ...] = (ConfigError("ours"),) if failing else ()
    steps = {
        "before a token": (hold,),
        "amid tokens": (Piece("a", (1,)), hold),
    }.get(stage, (Piece("a", (1,)), *error, Piece("b", (2,), FinishReason.STOP)))
    home.service.steps = (*steps, *error, Piece("b", (2,), FinishReason.STOP))
    home.service.admitted.clear()
    if stage == "admission":
        home.service.steps = (hold,)
    client = home.client(token)
    if stage == "while it reads nothing":
        client.reads = asyncio.Event()
    body = {**BODY, "stream": how["stream"]}
    task = asyncio.create_task(client.post(how["path"], body))
    if stage == "admission":
        await asyncio.sleep(0)
        task.cancel()
    else:
        await home.service.admitted.wait()
        assert home.door.running() == {"alice": 1}
        refused = await home.client(token).post(CHAT, chat_body())
        assert (refused.status, "retry-after" in refused.headers) == (429, True)
        if stage != "never":
            client.leaves.set()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    home.service.steps = (*error, *FakeService().steps)


def test_a_route_is_found_by_the_name_in_the_path_too(home: House) -> None:
    home.service.specs = (*home.service.specs, spec("org/coder"))
    home.service.change(models=(*STATUS.models, model_status("org/coder")))
    token = home.add("limited", models=("org/coder",))
    assert home.ask("GET", "/v1/models/org/coder", token).status == 200
    assert home.ask("GET", "/v1/models/coder", token).status == 404


@pytest.mark.parametrize("text", ["60", "60/", "0/s", "1.5/s", "-1/s", "60/minute", "/s", "1/w"])
def test_a_rate_is_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(ConfigError, match="60/min"):
        Rate.parse(text)
