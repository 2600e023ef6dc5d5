"""A deadline for the first token, over HTTP and with the real engine."""

import openai
import pytest
from serving import RunningServer

HEADER = "x-repertory-deadline-ms"


def ask(server: RunningServer, deadline_ms: int, **fields: object) -> str:
    """The id of the answer."""
    with server.client() as client:
        answer = client.completions.create(
            model="ant",
            prompt=[5, 6, 7],
            max_tokens=4,
            extra_headers={HEADER: str(deadline_ms)},
            extra_body=fields,
        )
    return answer.id


@pytest.mark.parametrize("deadline_ms", [0, -20])
def test_a_deadline_that_has_passed_is_refused_at_once_with_the_reason(
    server: RunningServer, deadline_ms: int
) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        ask(server, deadline_ms)
    assert refused.value.status_code == 504
    assert refused.value.code == "deadline_exceeded"
    assert refused.value.type == "timeout_error"
    assert "its deadline passed" in refused.value.message
    assert "the first token would take" in refused.value.message
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_official_clients_do_not_try_again(server: RunningServer) -> None:
    refused = 'deadlines_total{key="",model="ant",outcome="refused"} '
    client = server.client().with_options(max_retries=5)
    before = server.get("/metrics")[1].decode().partition(refused)[2].partition("\n")[0]
    with client, pytest.raises(openai.InternalServerError):
        client.completions.create(
            model="ant", prompt=[5], max_tokens=1, extra_headers={HEADER: "0"}
        )
    after = server.get("/metrics")[1].decode().partition(refused)[2].partition("\n")[0]
    assert float(after) == float(before or 0) + 1


def test_one_that_is_kept_is_told_by_why_and_counted(server: RunningServer) -> None:
    name = ask(server, 60_000, priority="batch")
    story = server.repertory("why", name, "--state-dir", str(server.state_dir))
    assert "its first token is wanted within 60 s" in story
    assert "before its deadline" in story
    page = server.get("/metrics")[1].decode()
    assert 'repertory_deadlines_total{key="",model="ant",outcome="met"} ' in page


def test_it_must_be_a_whole_number(server: RunningServer) -> None:
    with server.client() as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="ant",
            messages=[{"role": "user", "content": "hi"}],
            extra_headers={HEADER: "soon"},
        )
    assert refused.value.param == HEADER


def test_embeddings_have_one_too(server: RunningServer) -> None:
    with server.client() as client, pytest.raises(openai.InternalServerError) as refused:
        client.embeddings.create(model="ant", input="hi", extra_headers={HEADER: "0"})
    assert refused.value.code == "deadline_exceeded"
