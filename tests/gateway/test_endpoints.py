"""Models, health, metrics, the operator's wishes, and what HTTP itself refuses."""

import contextlib
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from asgi_client import CHAT, Client, Reply, app_of, chat_body, run_virtually
from fake_service import STATUS, FakeService, model_status

from repertory.domain.errors import ConfigError, EngineError, Overloaded
from repertory.domain.events import Wish
from repertory.live.facade import Piece, ServiceStatus


def get(service: FakeService, path: str, method: str = "GET") -> Reply:
    return run_virtually(Client(app_of(service)).send(method, path, b""))


def test_models_say_where_they_stand() -> None:
    reply = get(FakeService(), "/v1/models")
    assert reply.json["object"] == "list"
    assert [model["id"] for model in reply.json["data"]] == ["coder", "writer"]
    assert reply.json["data"][0] == {
        "id": "coder",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "repertory",
        "aliases": [],
        "status": {"value": "loaded", "rung": "serving", "eta_s": None, "fault": None},
        "context_tokens": 64,
        "memory": {
            "weights_bytes": 50_000_000,
            "predicted_bytes": 60_000_000,
            "measured_bytes": 61_000_000,
        },
        "pinned": False,
    }


def test_a_model_that_never_fits_is_marked_with_the_reason_and_refused_with_it() -> None:
    why = "cannot be served: it needs 9 MiB, and the largest device, cpu0, has 5 MiB"
    service = FakeService()
    service.change(models=(replace(model_status("coder", "too_large"), fault=why),))
    (card,) = get(service, "/v1/models").json["data"]
    assert card["status"] == {"value": "too_large", "rung": "disk", "eta_s": None, "fault": why}
    assert 'repertory_model_fault{model="coder"} 1.0' in get(service, "/metrics").body.decode()
    service.refusal = EngineError(f"coder {why}")
    reply = run_virtually(Client(app_of(service)).post(CHAT, chat_body()))
    assert (reply.status, "retry-after" in reply.headers) == (503, False), "later is no better"
    assert reply.json["error"]["message"] == f"coder {why}"


@pytest.mark.parametrize("name", ["coder", "gpt-4o-mini"])
def test_one_model_by_name_or_alias(name: str) -> None:
    assert get(FakeService(), f"/v1/models/{name}").json["id"] == "coder"


def test_names_may_hold_slashes() -> None:
    service = FakeService()
    service.change(models=(model_status("org/deep"),))
    assert get(service, "/v1/models/org/deep").json["id"] == "org/deep"
    assert get(service, "/admin/models/org/deep/load", "POST").status == 202
    assert service.wishes == [("org/deep", Wish.LOAD)]


def test_a_model_that_is_just_removed_is_not_found() -> None:
    assert get(FakeService(), "/v1/models/org/deep").status == 404


def test_unknown_models_are_404_with_near_names() -> None:
    for path, method in (("/v1/models/codr", "GET"), ("/admin/models/codr/load", "POST")):
        reply = get(FakeService(), path, method)
        assert reply.status == 404
        assert reply.json["error"]["code"] == "model_not_found"
        assert "coder" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({}, 200, "ok"),
        ({"faults": ("writer cannot load: damaged",)}, 200, "ok"),
        ({"is_ready": False, "faults": ("the worker is gone",)}, 503, "unavailable"),
        ({"is_draining": True}, 503, "draining"),
    ],
)
def test_health_is_truthful(changes: dict[str, Any], status: int, word: str) -> None:
    service = FakeService()
    service.change(**changes)
    reply = get(service, "/health")
    assert (reply.status, reply.json["status"]) == (status, word)
    assert reply.json["worker"] is service.current.is_ready
    assert reply.json["draining"] is service.current.is_draining
    assert reply.json["faults"] == list(service.current.faults)


@pytest.mark.parametrize("wish", list(Wish))
def test_wishes_reach_the_server_under_the_models_own_name(wish: Wish) -> None:
    service = FakeService()
    reply = get(service, f"/admin/models/gpt-4o-mini/{wish.value}", "POST")
    assert (reply.status, reply.json) == (202, {"model": "coder", "wish": wish.value})
    assert service.wishes == [("coder", wish)]


def test_ps_is_the_whole_status_and_reads_back() -> None:
    reply = get(FakeService(), "/admin/ps")
    assert msgspec.json.decode(reply.body, type=ServiceStatus) == STATUS


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/admin/models/coder/explode", 404),
        ("GET", CHAT, 405),
        ("GET", "/admin/models/coder/load", 405),
        ("DELETE", "/v1/models", 405),
    ],
)
def test_what_http_refuses_has_openais_shape(method: str, path: str, status: int) -> None:
    service = FakeService()
    reply = get(service, path, method)
    assert reply.status == status
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in reply.headers) == (status == 405)
    assert service.wishes == []


class Bug(Exception):
    pass


@pytest.mark.parametrize("error", [Bug(), ConfigError("ours")])
def test_what_is_not_the_clients_fault_is_500(error: Exception) -> None:
    service = FakeService(refusal=error)
    client = Client(app_of(service))
    if isinstance(error, Bug):
        with pytest.raises(Bug):
            run_virtually(client.post(CHAT, chat_body()))
    else:
        run_virtually(client.post(CHAT, chat_body()))
    assert client.reply.status == 500
    assert client.reply.json["error"]["type"] == "server_error"


def scrape(service: FakeService, *bodies: dict[str, Any]) -> dict[str, float]:
    async def main() -> bytes:
        app = app_of(service)
        for body in bodies:
            await Client(app).post(CHAT, body)
        return (await Client(app).get("/metrics")).body

    lines = [line for line in run_virtually(main()).decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_a_scrape_shows_the_status_and_touches_no_model() -> None:
    service = FakeService()
    values = scrape(service)
    assert values["repertory_ready"] == 1
    assert values['repertory_models{rung="serving"}'] == 1
    assert values['repertory_ledger_bytes{device="local/cpu0",kind="charged"}'] == 2**28
    assert values['repertory_model_bytes{kind="measured",model="coder"}'] == 61_000_000
    assert 'repertory_model_bytes{kind="measured",model="writer"}' not in values
    assert values["repertory_process_bytes"] == 300_000_000
    assert (service.asked, service.wishes) == ([], [])


def test_requests_are_counted_by_model_and_outcome() -> None:
    service = FakeService((0.25, Piece("a", (1,)), 0.03, *FakeService().steps))
    values = scrape(
        service, chat_body(), chat_body(n=0), chat_body(model="nobody"), chat_body(stream=True)
    )
    assert values['repertory_requests_total{key="",model="coder",outcome="done"}'] == 2
    assert values['repertory_requests_total{key="",model="",outcome="client_error"}'] == 2
    assert values['repertory_prompt_tokens_total{key="",model="coder"}'] == 14
    assert values['repertory_cached_prompt_tokens_total{key="",model="coder"}'] == 4
    assert values['repertory_output_tokens_total{key="",model="coder"}'] == 12
    assert values['repertory_time_to_first_token_seconds_sum{key="",model="coder"}'] == 0.5
    assert values['repertory_inter_token_seconds_sum{key="",model="coder"}'] == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Overloaded("busy", 3), "refused"), (ConfigError("ours"), "failed"), (Bug(), "failed")],
)
def test_what_fails_is_counted_too(error: Exception, outcome: str) -> None:
    service = FakeService(refusal=error)
    app = app_of(service)

    async def main() -> str:
        with contextlib.suppress(Bug):
            await Client(app).post(CHAT, chat_body())
        return (await Client(app).get("/metrics")).body.decode()

    page = run_virtually(main())
    assert f'repertory_requests_total{{key="",model="coder",outcome="{outcome}"}} 1.0' in page
