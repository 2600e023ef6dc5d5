"""The story of a request or a model, told from decisions that went through the log."""

import msgspec
import pytest

from repertory.core import journal
from repertory.domain.actions import Action, Activate, Dispatch, Load, Preempt, Settle, Unload
from repertory.domain.decisions import Cause, Decision, Option, Verdict
from repertory.domain.events import (
    Arrived,
    Cancelled,
    Event,
    Finished,
    FirstToken,
    GenerationFailed,
    Measured,
    ModelAdded,
    OperatorAsked,
    Preempted,
    TransitionDone,
    TransitionFailed,
    Wish,
    WorkerLost,
)
from repertory.domain.ladder import Rung
from repertory.domain.requests import FinishReason, Outcome, OutcomeKind, Request
from repertory.domain.settings import Settings
from repertory.domain.specs import KvShape, ModelSpec, Placement
from repertory.reports.figures import bytes_text, change_text, seconds_text
from repertory.reports.story import Entry, Milestone, render
from repertory.reports.why import explain, near_subjects

SECOND = 10**9
MIB = 2**20


def spec(name: str, *aliases: str) -> ModelSpec:
    return ModelSpec(name, "d", f"{name}.gguf", 700 * MIB, 8, 4096, 4096, MIB, aliases=aliases)


class Log:
    """Decisions as they come back from the file."""

    def __init__(self) -> None:
        self.lines = [journal.encode_header(journal.Header("0", Settings(), 0))]

    def add(self, event: Event, *said: Action | Verdict) -> None:
        actions = tuple(each for each in said if not isinstance(each, Verdict))
        verdicts = tuple(each for each in said if isinstance(each, Verdict))
        self.lines.append(journal.encode(Decision(len(self.lines), event, actions, verdicts)))

    @property
    def records(self) -> list[dict[str, object]]:
        return list(journal.read_lines(self.lines))


OPTIONS = (
    Option("evict writer#1 (all) on cpu0", 2.5, 1.25, 700 * MIB),
    Option("free memory on cpu1", 40.0, 3.0, 700 * MIB, "slow cores"),
)


@pytest.fixture
def log() -> Log:
    """`coder` is asked for, `writer` must go, the load is slower than predicted."""
    log = Log()
    log.add(ModelAdded(100 * SECOND, spec("coder", "gpt-4o-mini")))
    log.add(ModelAdded(100 * SECOND, spec("writer")))
    log.add(
        Arrived(101 * SECOND, Request("q7", "coder", 12, 99)),
        Unload(1, "writer#1", "writer", "local"),
        Verdict(
            "evict",
            "writer",
            "unload writer#1",
            "makes room for coder: P(use soon) x reload = 0.1 s",
            (),
            (1,),
            0.02,
            600 * MIB,
            "prior",
            Cause.ROOM,
        ),
    )
    log.add(
        TransitionDone(102 * SECOND, 1, "writer#1", Measured(SECOND // 50, 0, 0, 0)),
        Load(2, "coder#1", "coder", "local", Placement(("cpu0",)), Rung.DISK),
        Verdict(
            "load", "coder", "load coder#1", "1 wait", OPTIONS, (2,), 1.25, 700 * MIB, "measured"
        ),
    )
    log.add(
        TransitionDone(
            104 * SECOND, 2, "coder#1", Measured(2 * SECOND, 690 * MIB, None, 10 * MIB, Rung.HOST)
        ),
        Activate(3, "coder#1", "coder", "local", KvShape(4, 1024)),
        Verdict("activate", "coder", "activate coder#1", "1 wait", (), (3,), 0.1, MIB, "prior"),
    )
    log.add(
        TransitionDone(105 * SECOND, 3, "coder#1", Measured(SECOND // 10, 690 * MIB, 2 * MIB, MIB)),
        Dispatch("q7", "coder#1", "local"),
    )
    log.add(FirstToken(106 * SECOND, "q7"))
    log.add(
        OperatorAsked(106 * SECOND, "coder", Wish.PIN),
        Verdict("operator", "coder", "pin", "asked for by the operator"),
    )
    done = Finished(107 * SECOND, "q7", FinishReason.STOP, 9, SECOND, SECOND // 2)
    log.add(done, Settle(Outcome("q7", OutcomeKind.DONE)))
    return log


def test_the_story_of_a_request(log: Log) -> None:
    story = explain(log.records, "chatcmpl-q7")
    assert story is not None
    assert (story.subject, story.kind, story.model) == ("q7", "request", "coder")
    assert "\n".join(render(story)) == (
        """\
request q7 of model coder
       1.000 s  arrived for coder: 12 prompt tokens, at most 99 to generate
       1.000 s  evict writer -> unload writer#1
                 why (room): makes room for coder: P(use soon) x reload = 0.1 s
                 predicted 20.0 ms, 600 MiB (prior); measured 20.0 ms (+0 %)
                 #1 unload writer: took 20.0 ms
       2.000 s  load coder -> load coder#1
                 why: 1 wait
                 predicted 1.25 s, 700 MiB (measured); measured 2.00 s (+60 %), 690 MiB (-1 %)
                   option                               harm        takes     memory
                 * evict writer#1 (all) on cpu0       2.50 s       1.25 s    700 MiB
                   free memory on cpu1               40.00 s       3.00 s    700 MiB  slow cores
                 #2 load coder: took 2.00 s from host, 690 MiB
       4.000 s  activate coder -> activate coder#1
                 why: 1 wait
                 predicted 100.0 ms, 1.0 MiB (prior); measured 100.0 ms (+0 %), 3.0 MiB (+200 %)
                 #3 activate coder: took 100.0 ms, 3.0 MiB
       5.000 s  sent to replica coder#1
       6.000 s  first token
       7.000 s  finished (stop): 9 tokens, 1.50 s of compute
       7.000 s  settled: done"""
    )


def test_what_a_first_token_did_not_have_to_wait_for_is_told(log: Log) -> None:
    """The tokens that were found, and where their cells came from."""
    log.add(Arrived(108 * SECOND, Request("q8", "coder", 900, 99)))
    log.add(FirstToken(109 * SECOND, "q8", 896, 8 * MIB, 2_000_000, Rung.DISK))
    log.add(Arrived(109 * SECOND, Request("q9", "coder", 900, 99)))
    log.add(FirstToken(109 * SECOND, "q9", 128))
    log.add(Arrived(109 * SECOND, Request("q10", "coder", 900, 99)))
    log.add(FirstToken(109 * SECOND, "q10", displaced_bytes=4 * MIB, displaced_ns=1_000_000))
    stories = [explain(log.records, name) for name in ("q8", "q9", "q10")]
    found = [str(one) for one in stories]
    assert "(896 tokens before it were found; 8.0 MiB copied back from disk in 2.0 ms)" in found[0]
    assert "(128 tokens before it were found)" in found[1]
    assert "(4.0 MiB of another conversation copied out first, in 1.0 ms)" in found[2]


@pytest.mark.parametrize("name", ["coder", "gpt-4o-mini"])
def test_the_story_of_a_model_holds_whom_it_displaced(log: Log, name: str) -> None:
    story = explain(log.records, name)
    assert story is not None
    assert (story.subject, story.kind) == ("coder", "model")
    entries = [part for part in story.parts if isinstance(part, Entry)]
    assert [entry.rule for entry in entries] == ["evict", "load", "activate", "operator"]
    wishes = [part.text for part in story.parts if isinstance(part, Milestone)]
    assert wishes == ["the operator asked to pin"]


def test_the_story_of_the_displaced(log: Log) -> None:
    story = explain(log.records, "writer")
    assert story is not None
    assert [part.rule for part in story.parts if isinstance(part, Entry)] == ["evict"]


def test_a_story_is_json(log: Log) -> None:
    story = explain(log.records, "q7")
    built = msgspec.json.decode(msgspec.json.encode(story))
    load = built["parts"][2]
    assert load["rule"] == "load"
    assert load["options"][0]["harm_s"] == 2.5
    assert load["options"][0]["is_chosen"] is True
    assert load["moves"][0]["measured_s"] == 2.0
    assert load["moves"][0]["measured_bytes"] == 690 * MIB


def test_a_log_from_before_there_were_causes_is_told_without_them(log: Log) -> None:
    records = log.records
    for record in records:
        for verdict in record["verdicts"]:  # type: ignore[attr-defined]  # a decoded line
            del verdict["cause"]
    now, then = explain(log.records, "q7"), explain(records, "q7")
    assert now is not None
    assert then is not None
    assert render(then) == [line.replace("why (room):", "why:") for line in render(now)]
    assert render(then) != render(now)


def test_a_model_nobody_wanted_has_no_story_but_is_known() -> None:
    log = Log()
    log.add(ModelAdded(SECOND, spec("coder")))
    story = explain(log.records, "coder")
    assert story is not None
    assert render(story) == ["model coder", "  nothing was decided about it yet"]


def test_a_refusal_chose_none_of_its_options() -> None:
    log = Log()
    log.add(
        Arrived(SECOND, Request("q1", "coder", 12, 99)),
        Settle(Outcome("q1", OutcomeKind.REFUSED, "the queue is long", 9.5, 429)),
        Verdict("admit", "q1", "refuse", "130 s", (Option("queue", 130, 130, 0),), (), 9.5),
    )
    story = explain(log.records, "q1")
    assert story is not None
    arrived, entry, settled = story.parts
    assert isinstance(entry, Entry)
    assert not entry.options[0].is_chosen
    assert isinstance(settled, Milestone)
    assert settled.text == "settled: refused: the queue is long (try again in 9.50 s)"
    assert "arrived" in render(story)[1]
    assert isinstance(arrived, Milestone)


def test_failures_and_leavers_are_told() -> None:
    log = Log()
    log.add(
        Arrived(SECOND, Request("q1", "coder", 12, 99)),
        Load(2, "coder#1", "coder", "local", Placement(("cpu0",)), Rung.DISK),
        Verdict("load", "coder", "load coder#1", "1 wait", (), (2,), 1.25),
    )
    log.add(
        TransitionFailed(2 * SECOND, 2, "coder#1", "damaged"),
        Verdict("fault", "coder", "load coder#1 failed", "damaged", (), (2,)),
    )
    log.add(GenerationFailed(3 * SECOND, "q1", "no way"))
    log.add(Cancelled(4 * SECOND, "q1"))
    story = explain(log.records, "q1")
    assert story is not None
    text = "\n".join(render(story))
    assert "#2 load coder: failed: damaged" in text
    assert "predicted 1.25 s; failed" in text
    assert "failed: no way" in text
    assert "the client left" in text


def test_a_request_that_was_stopped_and_lost_its_worker_says_so() -> None:
    log = Log()
    request = Request("r", "writer", 10, 20)
    log.add(Arrived(0, request), Dispatch("r", "writer/1", "node0"))
    log.add(Arrived(SECOND, Request("s", "coder", 1, 1)), Preempt("r", "writer/1", "node0"))
    log.add(Preempted(SECOND, "r"))
    log.add(WorkerLost(2 * SECOND, "node0", "killed"))
    log.add(Arrived(3 * SECOND, Request("t", "coder", 1, 1)), Dispatch("r", "writer/2", "node0"))
    log.add(WorkerLost(4 * SECOND, "node0", "killed by SIGKILL"))
    log.add(WorkerLost(5 * SECOND, "another", "killed"))
    story = explain(log.records, "r")
    assert story is not None
    assert [one.text for one in story.parts if isinstance(one, Milestone)][1:] == [
        "sent to replica writer/1",
        "stopped for others on replica writer/1",
        "stopped; it waits, to go on where it stood",
        "sent to replica writer/2",
        "its worker died (killed by SIGKILL); it waits, to go on where it stood",
    ]


STOP, WAIT = Option("preempt", 0.5, 1.5, 0), Option("wait for their end", 8.0, 9.0, 0)


def stopped_log() -> Log:
    """`r` of writer is stopped for `s` of coder, and goes on."""
    log = Log()
    log.add(Arrived(0, Request("r", "writer", 10, 200)), Dispatch("r", "writer/1", "node0"))
    log.add(FirstToken(SECOND, "r"))
    log.add(
        Arrived(2 * SECOND, Request("s", "coder", 1, 1)),
        Preempt("r", "writer/1", "node0"),
        Verdict("drain", "writer", "writer/1 hands over to coder", "", (WAIT, STOP)),
        Verdict(
            "preempt",
            "writer",
            "1 generations of writer/1 make way for coder",
            "they would go on for 9 s; a switch there and back takes 1.5 s",
            (STOP, WAIT),
            (),
            1.5,
            None,
            "measured",
            Cause.ROOM,
        ),
    )
    log.add(Preempted(2 * SECOND, "r", 40))
    log.add(Cancelled(3 * SECOND, "another"), Dispatch("s", "coder/1", "node0"))
    log.add(FirstToken(4 * SECOND, "s"))
    log.add(Cancelled(5 * SECOND, "another"), Dispatch("r", "writer/2", "node0"))
    log.add(
        FirstToken(6 * SECOND, "r", 48),
        Verdict(
            "resume", "r", "48 tokens before it were found", "", predicted_s=0.5, measured_s=1.0
        ),
        Verdict(
            "penalty",
            "writer",
            "r went on after 4 s",
            "coder had its first token 2 s after the stop; switch there 1 s, back 0 s, longest "
            "resume 1 s",
            predicted_s=1.5,
            basis="measured",
            error=0.25,
            measured_s=2.0,
        ),
    )
    return log


def test_the_story_of_one_that_was_stopped_says_for_whom_and_what_it_cost() -> None:
    story = explain(stopped_log().records, "r")
    assert story is not None
    assert "\n".join(render(story)[3:]) == (
        """\
       1.000 s  first token
       2.000 s  preempt writer -> 1 generations of writer/1 make way for coder
                 why (room): they would go on for 9 s; a switch there and back takes 1.5 s
                 predicted 1.50 s (measured)
                   option                     harm        takes     memory
                 * preempt                500.0 ms       1.50 s        0 B
                   wait for their end       8.00 s       9.00 s        0 B
       2.000 s  stopped for others on replica writer/1
       2.000 s  stopped; it waits, to go on where it stood
       5.000 s  sent to replica writer/2
       6.000 s  goes on, 4.00 s after it broke off (48 tokens before it were found)
       6.000 s  resume r -> 48 tokens before it were found
                 predicted 500.0 ms; measured 1.00 s (+100 %)
       6.000 s  penalty writer -> r went on after 4 s
                 why: coder had its first token 2 s after the stop; switch there 1 s, back 0 s, \
longest resume 1 s
                 predicted 1.50 s ± 25 % (measured); measured 2.00 s (+33 %)"""
    )


@pytest.mark.parametrize("name", ["s", "writer", "coder"])
def test_whoever_it_was_stopped_for_and_both_models_tell_what_it_cost(name: str) -> None:
    story = explain(stopped_log().records, name)
    assert story is not None
    rules = [part.rule for part in story.parts if isinstance(part, Entry)]
    assert rules == ["drain", "preempt", "penalty"]


def test_a_turn_that_was_bounded_and_stopped_at_once_was_not_waited_for() -> None:
    story = explain(stopped_log().records, "writer")
    assert story is not None
    drain, preempt, _ = (part for part in story.parts if isinstance(part, Entry))
    assert [one.is_chosen for one in drain.options] == [False, False]
    assert [one.is_chosen for one in preempt.options] == [True, False]


def test_others_stops_are_not_a_request_s_story() -> None:
    log = stopped_log()
    log.add(Arrived(7 * SECOND, Request("t", "third", 1, 1)))
    story = explain(log.records, "t")
    assert story is not None
    assert [part.rule for part in story.parts if isinstance(part, Entry)] == []


def test_a_worker_that_dies_before_the_first_token_broke_nothing_off() -> None:
    log = Log()
    log.add(Arrived(0, Request("r", "writer", 10, 20)), Dispatch("r", "writer/1", "node0"))
    log.add(WorkerLost(SECOND, "node0", "killed"))
    log.add(Cancelled(SECOND, "another"), Dispatch("r", "writer/2", "node0"))
    log.add(FirstToken(2 * SECOND, "r"))
    log.add(WorkerLost(3 * SECOND, "node0", "killed"))
    log.add(Cancelled(3 * SECOND, "another"), Dispatch("r", "writer/3", "node0"))
    log.add(FirstToken(5 * SECOND, "r"))
    story = explain(log.records, "r")
    assert story is not None
    texts = [one.text for one in story.parts if isinstance(one, Milestone)]
    assert "first token" in texts
    assert texts[-1] == "goes on, 2.00 s after it broke off (all before it computed again)"


def test_one_that_loses_its_worker_while_it_is_being_stopped_says_so() -> None:
    log = Log()
    log.add(Arrived(0, Request("r", "writer", 10, 20)), Dispatch("r", "writer/1", "node0"))
    log.add(Cancelled(SECOND, "another"), Preempt("r", "writer/1", "node0"))
    log.add(WorkerLost(2 * SECOND, "node0", "killed"))
    story = explain(log.records, "r")
    assert story is not None
    assert "its worker died (killed)" in render(story)[-1]


def test_other_requests_moves_after_the_wait_are_not_its_story(log: Log) -> None:
    log.add(
        Arrived(200 * SECOND, Request("q8", "writer", 1, 1)),
        Unload(9, "coder#1", "coder", "local"),
        Verdict("evict", "coder", "unload coder#1", "makes room for writer", (), (9,)),
    )
    story = explain(log.records, "q7")
    assert story is not None
    assert not any(part.at_s > 50 for part in story.parts)


def test_a_move_under_way_says_so(log: Log) -> None:
    log.add(
        Arrived(200 * SECOND, Request("q8", "writer", 1, 1)),
        Load(9, "writer#2", "writer", "local", Placement(("cpu0",)), Rung.DISK),
        Verdict("load", "writer", "load writer#2", "1 wait", (), (9,), 1.0),
    )
    story = explain(log.records, "q8")
    assert story is not None
    assert "predicted 1.00 s; not measured yet" in render(story)[-2]
    assert "under way" in render(story)[-1]


def test_what_the_log_does_not_know(log: Log) -> None:
    assert explain(log.records, "nobody") is None
    assert near_subjects(log.records, "codr") == ["coder"]
    assert near_subjects(log.records, "q77") == ["q7"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1536, "1.5 KiB"),
        (700 * MIB, "700 MiB"),
        (1000 * MIB, "1.0 GiB"),
        (2**44, "16.0 TiB"),
    ],
)
def test_sizes_for_people(size: int | None, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0 s"),
        (0.00023, "230 µs"),
        (0.0123, "12.3 ms"),
        (4.561, "4.56 s"),
        (200.0, "3 min 20 s"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_seconds_for_people(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


def test_changes_for_people() -> None:
    assert (change_text(2.0, 2.5), change_text(0.0, 1.0), change_text(None, 1.0)) == (
        "+25 %",
        "",
        "",
    )
