"""What the decisions tell the metrics, and what a scrape looks like."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asgi_client import CHAT, Client, app_of, chat_body, run_virtually
from fake_service import STATUS, FakeService, model_status
from prometheus_client.parser import text_string_to_metric_families

from core.play import Play, other_file
from repertory.domain.actions import Action, Activate, Dispatch, Load, Resize, Settle, Unload
from repertory.domain.decisions import Cause, Decision, Verdict
from repertory.domain.events import (
    Arrived,
    Event,
    FirstToken,
    Measured,
    ModelAdded,
    ModelRemoved,
    OperatorAsked,
    Preempted,
    Timer,
    TransitionDone,
    TransitionFailed,
    Wish,
    WorkerLost,
    WorkerUp,
)
from repertory.domain.ladder import Rung
from repertory.domain.requests import Outcome, OutcomeKind, Request
from repertory.domain.settings import Settings
from repertory.domain.specs import KvShape, Placement
from repertory.gateway.metrics import Metrics
from repertory.gateway.observe.board import ROWS, board_page
from repertory.gateway.observe.catalogue import CATALOGUE, Kind
from repertory.gateway.pages import PAGES
from repertory.gateway.pages import main as write_pages
from worlds import World, llama_world, vllm_world

ROOT = Path(__file__).parent.parent.parent
SECOND = 10**9
NOW_UNIX_S = 1_700_000_000.0
PLACE = Placement(("cpu0",))
LOAD = Load(1, "coder/0", "coder", "local", PLACE, Rung.DISK)
ACTIVATE = Activate(2, "coder/0", "coder", "local", KvShape(4, 1024))
DEMAND = Cause.DEMAND
UNLOAD = Unload(3, "writer/0", "writer", "local")


def decision(
    event: Event, actions: tuple[Action, ...] = (), verdicts: tuple[Verdict, ...] = ()
) -> Decision:
    return Decision(0, event, actions, verdicts)


def metrics_after(*decisions: Decision) -> Metrics:
    metrics = Metrics(lambda: STATUS, lambda: NOW_UNIX_S)
    for each in decisions:
        metrics.decisions.take(each)
    return metrics


def page_after(*decisions: Decision) -> str:
    return metrics_after(*decisions).page().decode()


def done(action_id: int, took_s: float, **sizes: int) -> Decision:
    measured = Measured(took_ns=round(took_s * SECOND), **sizes)
    return decision(TransitionDone(SECOND, action_id, "coder/0", measured))


BRING_UP = decision(
    Timer(0, "t"),
    (UNLOAD, LOAD, ACTIVATE),
    (
        Verdict("load", "coder", "load coder/0", "2 wait", (), (1,), 2.0, 500, "prior", DEMAND),
        Verdict("activate", "coder", "activate coder/0", "2 wait", (), (2,), 0.5, 80, "", DEMAND),
        Verdict("evict", "coder", "writer/0", "any words", (), (3,), 0.5, 400, "", Cause.ROOM),
    ),
)


def test_moves_are_counted_by_the_reason_behind_them() -> None:
    page = page_after(BRING_UP)
    transitions = "repertory_transitions_total"
    assert f'{transitions}{{edge="load",model="coder",reason="demand"}} 1.0' in page
    assert f'{transitions}{{edge="activate",model="coder",reason="demand"}} 1.0' in page
    assert f'{transitions}{{edge="unload",model="writer",reason="room"}} 1.0' in page


def test_predicted_seconds_and_bytes_are_compared_when_the_move_is_done() -> None:
    assert 'prediction_time_ratio_count{edge="load"}' not in page_after(BRING_UP)
    page = page_after(
        BRING_UP,
        done(1, 3.0, weights_bytes=550),
        done(2, 0.5, kv_bytes=30, buffers_bytes=10),
        done(3, 1.0, weights_bytes=0),
    )
    assert 'repertory_prediction_time_ratio_sum{edge="load"} 1.5' in page
    assert 'repertory_prediction_memory_ratio_sum{edge="load"} 1.1' in page
    assert 'repertory_prediction_memory_ratio_sum{edge="activate"} 0.5' in page
    assert 'repertory_prediction_memory_ratio_count{edge="unload"}' not in page
    assert 'repertory_predicted_seconds_total{edge="load"} 2.0' in page
    assert 'repertory_measured_seconds_total{edge="load"} 3.0' in page
    assert 'repertory_transition_seconds_sum{edge="load"} 3.0' in page


ERROR = "repertory_prediction_error_ratio"


def test_the_error_of_a_prediction_is_its_distance_over_what_was_measured() -> None:
    page = page_after(BRING_UP, done(1, 2.5, weights_bytes=400), done(2, 0.4, kv_bytes=9))
    assert f'{ERROR}_sum{{kind="load"}} 0.2' in page, "2.0 s for 2.5 s"
    assert f'{ERROR}_sum{{kind="memory"}} 0.25' in page, "500 bytes for 400"
    assert f'{ERROR}_count{{kind="memory"}} 1.0' in page, "the activation's were not read whole"
    assert f'{ERROR}_count{{kind="activate"}} 1.0' in page


def test_computing_going_on_and_stopping_have_their_errors_too() -> None:
    """Their verdicts bring both figures; what is too short for the clock says nothing."""
    kinds = ("prefill", "decode", "resume", "penalty")
    verdicts = [Verdict(one, "r", "", "", predicted_s=1.0, measured_s=0.5) for one in kinds]
    verdicts.append(Verdict("prefill", "r", "", "", predicted_s=1.0, measured_s=0.0))
    page = page_after(decision(Timer(0, "t"), verdicts=tuple(verdicts)))
    for kind in kinds:
        assert f'{ERROR}_sum{{kind="{kind}"}} 1.0' in page
        assert f'{ERROR}_count{{kind="{kind}"}} 1.0' in page


def kinds_of(play: Play) -> set[str]:
    play.end()
    errors = metrics_after(*play.decisions).decisions.error
    return {kind for (kind,), _ in errors.items()}


def one_stopped_for_another() -> Play:
    """On memory for one of them."""
    play = Play(replace(llama_world(models=2, memory_gib=1.4), settings=Settings(prewarm=False)))
    batch = play.ask("a", 50, 4000, 0.1)
    play.load_all()
    play.first_token(batch)
    urgent = play.ask("b", 50, 4)
    play.preempted(batch, made_tokens=40)
    play.load_all()
    play.finish(urgent)
    play.pass_s(30.0)
    play.load_all()
    play.now_ns += SECOND
    play.first_token(batch)
    return play


def slots_that_grow() -> Play:
    play = Play(replace(llama_world(models=1, memory_gib=8.0), settings=Settings(prewarm=False)))
    play.ask("a")
    play.load_all()
    for _ in range(8):
        play.ask("a")
    return play


def a_slot_that_another_conversation_had() -> Play:
    play = Play(replace(llama_world(models=1, memory_gib=8.0), settings=Settings(prewarm=False)))
    name = play.ask("a")
    play.load_all()
    play.started.add(name)
    play.send(FirstToken(play.now_ns, name, displaced_bytes=8 << 20, displaced_ns=SECOND))
    return play


def test_played_scenes_have_errors_of_every_kind_that_the_page_names() -> None:
    page = PAGES["observability/metrics.md"]()
    told = page[page.index(f"Kinds of `{ERROR}`") :].split("\n\n")[0]
    named = {one.strip("`") for one in re.findall("`[a-z]+`", told)}
    found = kinds_of(one_stopped_for_another()) | kinds_of(slots_that_grow())
    found |= kinds_of(a_slot_that_another_conversation_had())
    assert found == named - {"stage", "drop"}, "edges that llama.cpp has not"


def test_what_was_not_read_back_is_compared_with_nothing() -> None:
    resize = Resize(4, "coder/0", "coder", "local", KvShape(8, 1024))
    verdict = Verdict("resize", "coder", "", "1 run and 2 wait", (), (4,), 1.0, 100)
    began = decision(Timer(0, "t"), (resize,), (verdict,))
    assert "memory_ratio_count{" not in page_after(BRING_UP, done(2, 1.0, kv_bytes=9))
    assert "memory_ratio_count{" not in page_after(began, done(4, 1.0))
    assert 'memory_ratio_sum{edge="resize"} 2.0' in page_after(began, done(4, 1.0, kv_bytes=200))


def test_a_move_under_way_shows_when_it_began_until_it_ends_however_it_ends() -> None:
    name = 'repertory_transition_start_timestamp_seconds{edge="load",model="coder"}'
    assert f"{name} {NOW_UNIX_S!r}" in page_after(BRING_UP)
    failed = decision(TransitionFailed(SECOND, 1, "coder/0", "no"))
    lost = decision(WorkerLost(SECOND, "local", "killed"))
    for end in (done(1, 1.0), failed, lost):
        assert name not in page_after(BRING_UP, end)


def test_failed_and_lost_moves_compare_nothing() -> None:
    failed = decision(TransitionFailed(SECOND, 1, "coder/0", "no"))
    page = page_after(BRING_UP, failed, done(1, 1.0))
    assert 'repertory_transition_failures_total{edge="load",model="coder"} 1.0' in page
    lost = decision(WorkerLost(SECOND, "local", "killed"))
    page += page_after(BRING_UP, lost, done(1, 1.0), done(3, 1.0))
    assert "repertory_transition_seconds_count{" not in page


def test_a_worker_that_comes_back_was_restarted() -> None:
    up = decision(WorkerUp(0, llama_world().node))
    node = llama_world().node.id
    lost = decision(WorkerLost(SECOND, node, "killed"))
    assert "worker_restarts_total{" not in page_after(up)
    page = page_after(up, lost, up, lost)
    assert f'repertory_worker_losses_total{{node="{node}"}} 2.0' in page
    assert f'repertory_worker_restarts_total{{node="{node}"}} 1.0' in page


def test_preemptions_and_resumes_are_counted_and_the_first_token_is_the_first() -> None:
    arrived = decision(Arrived(0, Request("r", "writer", 7, 9)))
    sent = decision(Timer(SECOND, "t"), (Dispatch("r", "writer/0", "local"),))
    again = decision(Timer(9 * SECOND, "t"), (Dispatch("r", "writer/0", "local"),))
    stopped = decision(Preempted(5 * SECOND, "r"))
    page = page_after(arrived, sent, stopped, again, again)
    assert 'repertory_preemptions_total{model="writer"} 1.0' in page
    assert 'repertory_resumes_total{model="writer"} 2.0' in page


def test_bytes_of_a_divided_model_are_those_of_both_memories() -> None:
    """A prediction is of all of them; the device's alone would be half of it."""
    page = page_after(BRING_UP, done(1, 1.0, weights_bytes=40, rest_weights_bytes=60))
    whole = page_after(BRING_UP, done(1, 1.0, weights_bytes=100))
    series = 'repertory_prediction_memory_ratio_sum{edge="load"}'
    (both,) = [one for one in page.splitlines() if one.startswith(series)]
    assert both in whole.splitlines()


def test_a_drift_is_counted_by_its_model() -> None:
    said = Verdict("drift", "coder", "load takes 4 times what its law says from now on", "")
    page = page_after(*(decision(Timer(at, "t"), (), (said,)) for at in (0, SECOND)))
    assert 'repertory_cost_drifts_total{model="coder"} 2.0' in page


def test_a_request_has_a_story_until_its_outcome() -> None:
    arrived = decision(Arrived(SECOND, Request("r1", "coder", 7, 9)))
    dispatched = decision(Timer(4 * SECOND, "t"), (Dispatch("r1", "coder/0", "local"),))
    first = decision(FirstToken(6 * SECOND, "r1"))
    settled = decision(Timer(9 * SECOND, "t"), (Settle(Outcome("r1", OutcomeKind.DONE)),))
    moves = metrics_after(arrived).decisions
    story = moves.story("r1")
    assert story is not None
    assert (story.queue_s, story.prefill_s) == (None, None)
    for each in (dispatched, first, settled):
        moves.take(each)
    assert (story.queue_s, story.prefill_s) == (3.0, 2.0)
    assert moves.story("r1") is None


@pytest.mark.parametrize("is_dispatched", [True, False])
def test_the_wait_of_a_request_is_in_the_metrics_and_its_stages_in_its_line(
    is_dispatched: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = FakeService()
    app = app_of(service)
    (listener,) = service.listeners
    listener(decision(Arrived(SECOND, Request("r1", "coder", 7, 9))))
    if is_dispatched:
        listener(decision(Timer(4 * SECOND, "t"), (Dispatch("r1", "coder/0", "local"),)))
        listener(decision(FirstToken(6 * SECOND, "r1")))

    async def main() -> str:
        await Client(app).post(CHAT, chat_body())
        return (await Client(app).get("/metrics")).body.decode()

    with caplog.at_level(logging.INFO, "repertory.gateway.requests"):
        page = run_virtually(main())
    line = json.loads(caplog.records[0].message)
    waits = 'repertory_queue_wait_seconds_sum{key="",model="coder"}'
    if is_dispatched:
        assert f"{waits} 3.0" in page
        assert (line["queue_s"], line["prefill_s"]) == (3.0, 2.0)
    else:
        assert waits not in page, "it did not wait to the end"
        assert (line["queue_s"], line["prefill_s"]) == (None, None)


# Reasons, from the brain's own decisions


def one_room(**changes: object) -> World:
    world = replace(llama_world(models=3, memory_gib=1.6), settings=Settings(prewarm=False))
    models = tuple(replace(one, **changes) for one in world.models)  # type: ignore[arg-type]  # test data
    return replace(world, models=models)


def reasons_after(play: Play) -> dict[tuple[str, str, str], float]:
    play.end()
    metrics = metrics_after(*play.decisions)
    return {labels: one.value for labels, one in metrics.decisions.transitions.items()}  # type: ignore[misc]


def use(play: Play, name: str) -> None:
    request = play.ask(name)
    play.load_all()
    play.finish(request)


def wish(play: Play, name: str, what: Wish) -> None:
    play.send(OperatorAsked(play.now_ns, name, what))
    play.load_all()


def for_room(play: Play) -> None:
    use(play, "a")
    play.ask("b")
    play.settle(timers=True)


def by_an_operator(play: Play) -> None:
    wish(play, "a", Wish.LOAD)
    wish(play, "a", Wish.UNLOAD)


def by_a_new_file(play: Play) -> None:
    use(play, "a")
    play.add(other_file(play.specs["a"], 2))
    play.load_all()


def by_its_time_to_live(play: Play) -> None:
    use(play, "a")
    play.settle(timers=True)


def by_removal(play: Play) -> None:
    use(play, "a")
    play.send(ModelRemoved(play.now_ns, "a"))
    play.load_all()
    del play.specs["a"]


@pytest.mark.parametrize(
    ("story", "model", "up", "down"),
    [
        (for_room, "a", "demand", "room"),
        (by_an_operator, "a", "operator", "operator"),
        (by_a_new_file, "a", "demand", "replaced"),
        (by_its_time_to_live, "a", "demand", "ttl"),
        (by_removal, "a", "demand", "removed"),
    ],
)
def test_every_load_and_eviction_names_its_reason(
    story: Callable[[Play], None], model: str, up: str, down: str
) -> None:
    play = Play(one_room(ttl_s=5.0 if story is by_its_time_to_live else None))
    story(play)
    moves = {labels for labels in reasons_after(play) if labels[0] == model}
    assert (model, "load", up) in moves
    assert (model, "deactivate", down) in moves
    assert (model, "unload", down) in moves


def test_one_way_down_has_one_reason_however_many_edges_it_takes() -> None:
    play = Play(vllm_world())
    use(play, "b")
    wish(play, "b", Wish.UNLOAD)
    moves = [labels for labels in reasons_after(play) if labels[0] == "b" and labels[1] != "load"]
    assert {labels[2] for labels in moves} == {"operator", "demand"}
    assert ("b", "activate", "demand") in moves
    assert ("b", "drop", "operator") in moves


def test_memory_over_its_budget_is_a_reason_too() -> None:
    play = Play(one_room(), stretch={"digest-of-a": 1.9})
    play.ask("a")
    play.load_all()
    moves = metrics_after(*play.decisions).decisions.transitions
    assert ("a", "unload", "budget") in {labels for labels, _ in moves.items()}


def test_a_victims_age_is_the_time_since_its_last_use() -> None:
    play = Play(one_room())
    use(play, "a")
    play.pass_s(50.0)
    play.ask("b")
    play.load_all()
    page = metrics_after(*play.decisions).page().decode()
    assert 'repertory_eviction_idle_seconds_sum{reason="room"} 50.0' in page
    assert 'repertory_eviction_idle_seconds_count{reason="room"} 1.0' in page
    play.end()


def test_the_page_names_every_cause() -> None:
    page = PAGES["observability/metrics.md"]()
    reasons = page[page.index("Reasons of `repertory_transitions_total`") :].split("\n\n")[0]
    assert {one.strip("`") for one in re.findall("`[a-z]+`", reasons)} == {
        one.value for one in Cause
    }


# The page


def test_the_last_use_of_loaded_models_is_a_time() -> None:
    dispatched = decision(Timer(4 * SECOND, "t"), (Dispatch("r1", "coder/0", "local"),))
    arrived = decision(Arrived(SECOND, Request("r1", "coder", 7, 9)))
    now_s = [100.0]
    idle = replace(STATUS, models=(replace(model_status("coder", rung="serving"), running=0),))
    metrics = Metrics(lambda: idle, lambda: now_s[0])
    name = 'repertory_model_last_use_timestamp_seconds{model="coder"}'
    assert name not in metrics.page().decode()
    metrics.decisions.take(arrived)
    metrics.decisions.take(dispatched)
    now_s[0] = 300.0
    assert f"{name} 100.0" in metrics.page().decode()
    running = replace(STATUS, models=(model_status("coder", rung="serving"),))
    metrics = Metrics(lambda: running, lambda: 300.0)
    assert f"{name} 300.0" in metrics.page().decode(), "it is being used now"


def test_models_and_keys_that_are_gone_leave_the_page() -> None:
    status, names = [STATUS], [frozenset({"alice", "bob"})]
    metrics = Metrics(lambda: status[0], lambda: NOW_UNIX_S, lambda: names[0])
    for model in ("coder", "writer", ""):
        for key in ("alice", "bob", ""):
            metrics.requests.of(model, key, "done").add()
            metrics.ttft_s.of(model, key).observe(0.1)
    for each in (BRING_UP, done(3, 1.0), decision(OperatorAsked(0, "writer", Wish.UNLOAD))):
        metrics.decisions.take(each)
    metrics.decisions.take(decision(ModelAdded(0, llama_world().models[0])))
    before = metrics.page().decode()
    assert '"writer"' in before
    assert '"bob"' in before
    status[0] = replace(STATUS, models=STATUS.models[:1])
    names[0] = frozenset({"alice"})
    after = metrics.page().decode()
    assert '"writer"' not in after
    assert '"bob"' not in after
    assert 'repertory_requests_total{key="",model="",outcome="done"} 1.0' in after
    status[0], names[0] = STATUS, frozenset({"alice", "bob"})
    assert '"bob"' not in metrics.page().decode(), "forgotten, not hidden"


def full_page() -> str:
    """A scrape in which every family has a series."""

    async def main() -> str:
        service = FakeService()
        app = app_of(service)
        await Client(app).post(CHAT, chat_body())
        (listener,) = service.listeners
        for each in (
            decision(WorkerLost(0, "local", "")),
            decision(WorkerUp(0, replace(llama_world().node, id="local"))),
            BRING_UP,
            done(1, 1.0, weights_bytes=9),
            decision(TransitionFailed(SECOND, 2, "coder/0", "no")),
            decision(Arrived(0, Request("r9", "writer", 7, 9))),
            decision(Timer(0, "t"), (Dispatch("r9", "writer/0", "local"),)),
            decision(Preempted(0, "r9")),
            decision(Timer(0, "t"), (Dispatch("r9", "writer/0", "local"),)),
            decision(Arrived(0, Request("r8", "writer", 7, 9, deadline_ns=9))),
            decision(Timer(9, "t"), (Settle(Outcome("r8", OutcomeKind.DONE)),)),
            decision(
                Timer(SECOND, "t"),
                (Unload(9, "writer/0", "writer", "local"),),
                (Verdict("evict", "writer", "", "makes room for coder", (), (9,), 1.0, 1),),
            ),
            decision(
                Timer(SECOND, "t"), (), (Verdict("drift", "writer", "load takes 2 times", ""),)
            ),
        ):
            listener(each)
        return (await Client(app).get("/metrics")).body.decode()

    return run_virtually(main())


NEEDS_KEYS = {"repertory_denied_requests", "repertory_limited_requests", "repertory_key_requests"}
NEEDS_WAIT = {"repertory_queue_wait_seconds"}


def test_a_scrape_is_what_the_catalogue_says_in_its_order() -> None:
    families = list(text_string_to_metric_families(full_page()))
    known = [(one.name, one.kind.value, one.text) for one in CATALOGUE]
    assert [(one.name, one.type, one.documentation) for one in families] == known
    for found, family in zip(families, CATALOGUE, strict=True):
        bounds = set()
        for sample in found.samples:
            labels = dict(sample.labels)
            bounds |= {labels.pop("le", "+Inf")}
            assert set(labels) == set(family.labels), sample
        if found.samples and family.kind is Kind.HISTOGRAM:
            assert bounds == {*(repr(bound) for bound in family.bounds), "+Inf"}
        may_be_empty = family.name in NEEDS_KEYS | NEEDS_WAIT
        assert found.samples or may_be_empty or family.name.endswith("last_use_timestamp_seconds")


@pytest.mark.parametrize("name", ['a"b', "back\\slash", "two\nlines", 'x{y="z"} 1', "ünï", "{}"])
def test_any_name_of_a_model_reads_back(name: str) -> None:
    status = replace(STATUS, models=(model_status(name),))
    metrics = Metrics(lambda: status, lambda: NOW_UNIX_S)
    metrics.requests.of(name, "", "done").add(2)
    metrics.ttft_s.of(name, "").observe(0.5)
    families = text_string_to_metric_families(metrics.page().decode())
    samples = [sample for family in families for sample in family.samples]
    found = {one.name: one.value for one in samples if one.labels.get("model") == name}
    assert found["repertory_requests_total"] == 2.0
    assert found["repertory_time_to_first_token_seconds_sum"] == 0.5
    assert {one.labels["model"] for one in samples if "model" in one.labels} == {name}


def test_buckets_are_added_up_and_end_with_the_count() -> None:
    metrics = metrics_after()
    spread = metrics.ttft_s.of("coder", "")
    for value in (0.001, 0.0011, 0.3, 500.0):
        spread.observe(value)
    (found,) = [
        one
        for one in text_string_to_metric_families(metrics.page().decode())
        if one.name == "repertory_time_to_first_token_seconds"
    ]
    buckets = {s.labels["le"]: s.value for s in found.samples if s.name.endswith("_bucket")}
    assert (buckets["0.001"], buckets["0.002"], buckets["0.35"]) == (1.0, 2.0, 3.0)
    assert (buckets["120.0"], buckets["+Inf"]) == (3.0, 4.0)
    totals = {s.name.rpartition("_")[2]: s.value for s in found.samples if "le" not in s.labels}
    assert totals == {"count": 4.0, "sum": pytest.approx(500.3021)}


def test_decisions_that_the_log_lost_are_on_the_page() -> None:
    lossy = replace(STATUS, log_dropped=3)
    page = Metrics(lambda: lossy, lambda: NOW_UNIX_S).page().decode()
    assert "repertory_decision_log_dropped_lines_total 3.0" in page


def test_names_follow_the_conventions() -> None:
    for family in CATALOGUE:
        assert re.fullmatch(r"repertory_[a-z][a-z_]*[a-z]", family.name)
        assert not family.name.endswith("_total"), "the format adds it"
        assert list(family.bounds) == sorted(set(family.bounds))
        assert bool(family.bounds) is (family.kind is Kind.HISTOGRAM)
        if family.kind is Kind.HISTOGRAM:
            assert family.name.endswith(("_seconds", "_ratio"))
    assert len({family.name for family in CATALOGUE}) == len(CATALOGUE)


# The board and the pages


def board() -> Any:
    return json.loads(board_page())


def expressions() -> list[str]:
    panels = [one for one in board()["panels"] if one["type"] != "row"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_no_panel_names_a_metric_or_a_label_that_is_not_there() -> None:
    series = {}
    for family in CATALOGUE:
        names = [family.series]
        if family.kind is Kind.HISTOGRAM:
            names = [f"{family.name}_{part}" for part in ("bucket", "sum", "count")]
        series |= {name: {*family.labels, "le"} for name in names}
    queries = expressions() + [
        one["definition"] for one in board()["templating"]["list"] if "definition" in one
    ]
    for query in queries:
        found = re.findall(r"(repertory_\w+)(?:\{([^}]*)\})?", query)
        assert found, query
        for name, matchers in found:
            assert name in series, query
            labels = set(re.findall(r'(\w+)\s*(?:=~|!=|!~|=)\s*"', matchers))
            assert labels <= series[name], query
        if "by (" in query:
            (by,) = set(re.findall(r"by \(([^)]*)\)", query))
            assert {each.strip() for each in by.split(",")} <= series[found[0][0]], query


def test_legends_name_labels_that_the_query_leaves() -> None:
    for _, panels in ROWS:
        for panel in panels:
            for query in panel.queries:
                by = re.search(r"by \(([^)]*)\)", query.expression)
                for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
                    assert by is None or label in by[1], (panel.title, query.legend)


def test_every_metric_is_on_the_board() -> None:
    shown = " ".join(expressions())
    for family in CATALOGUE:
        assert family.series in shown, family.name


def test_the_board_is_one_that_grafana_takes() -> None:
    made = board()
    assert made["schemaVersion"] >= 39
    sources = [one for one in made["templating"]["list"] if one["type"] == "datasource"]
    assert [one["query"] for one in sources] == ["prometheus"]
    panels = made["panels"]
    assert [one["title"] for one in panels if one["type"] == "row"] == [row[0] for row in ROWS]
    assert len({one["id"] for one in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs)


@pytest.mark.parametrize("name", list(PAGES))
def test_the_generated_pages_are_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), "run: make docs"


def test_the_pages_can_be_checked_and_written(tmp_path: Path) -> None:
    assert write_pages([str(tmp_path), "--check"]) == 1
    assert write_pages([str(tmp_path)]) == 0
    assert write_pages([str(tmp_path), "--check"]) == 0
    (tmp_path / "authorisation.md").write_text("all may do all")
    assert write_pages([str(tmp_path), "--check"]) == 1
