"""Keys of a real server: made, used and revoked by commands while it runs."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from openai import AuthenticationError, NotFoundError, OpenAI, PermissionDeniedError, RateLimitError
from serving import DEADLINE_S, Start

from repertory.cli import main

Output = pytest.CaptureFixture[str]


def add(state_dir: Path, capsys: Output, *wishes: str) -> str:
    assert main(["keys", "add", *wishes, "--state-dir", str(state_dir)]) == 0
    return capsys.readouterr().out.strip()


def client(url: str, key: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=DEADLINE_S)


def test_keys_hold_from_their_making_to_their_removal_without_a_restart(
    start: Start, tiny_models: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(tiny_models)
    assert server.get("/v1/models")[0] == 200, "no keys, no need of one"
    alice = add(server.state_dir, capsys, "alice", "--models", "ant", "--rate", "2/d")
    root = add(server.state_dir, capsys, "root", "--admin")
    assert server.get("/v1/models")[0] == 401
    with pytest.raises(AuthenticationError):
        client(server.url, "wrong").models.list()
    mine = client(server.url, alice)
    names = {one.id for one in mine.models.list()}
    assert names == {"ant"}
    assert mine.completions.create(model="ant", prompt="hi", max_tokens=2).usage is not None
    with pytest.raises(NotFoundError):
        mine.completions.create(model="cat", prompt="hi", max_tokens=2)
    with pytest.raises(RateLimitError) as limited:
        mine.completions.create(model="ant", prompt="hi", max_tokens=2)
    assert int(limited.value.response.headers["retry-after"]) > 0
    with pytest.raises(PermissionDeniedError):
        mine.get("../admin/ps", cast_to=object)
    monkeypatch.setenv("REPERTORY_API_KEY", root)
    assert main(["ps", "--url", server.url]) == 0
    assert "ant" in capsys.readouterr().out
    page = scrape(server.url, root)
    assert 'repertory_requests_total{key="alice",model="ant",outcome="done"} 1.0' in page
    assert 'repertory_limited_requests_total{key="alice",limit="rate"} 1.0' in page
    assert "repertory_decision_log_dropped_lines_total 0.0" in page
    assert main(["keys", "remove", "alice", "--state-dir", str(server.state_dir)]) == 0
    with pytest.raises(AuthenticationError):
        mine.models.list()
    assert server.get("/health")[0] == 200


def scrape(url: str, key: str) -> str:
    asked = urllib.request.Request(f"{url}/metrics", headers={"x-api-key": key})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=DEADLINE_S) as reply:
            body: bytes = reply.read()
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(error.read()) from error
    return body.decode()
