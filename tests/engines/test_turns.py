"""Turns: one thread, and a long job that lets short ones in."""

import threading
import time
from collections.abc import Callable

import pytest

from repertory.engines.llamacpp.turns import Turns


class Play:
    """Jobs that write down when they ran; the first holds the thread until `go`."""

    def __init__(self) -> None:
        self.turns = Turns("test")
        self.order: list[str] = []
        self._may_go = threading.Event()
        self.long = self.turns.submit("long", self._run_long, lambda: False)

    def add(self, subject: str, name: str, *, is_short: bool) -> None:
        self.last = self.turns.submit(subject, lambda: self.order.append(name), lambda: is_short)

    def go(self) -> None:
        """And until everything is over."""
        self._may_go.set()
        self.turns.submit("end", lambda: None, lambda: False).result(10)

    def _run_long(self) -> tuple[bool, bool]:
        self._may_go.wait(10)
        self.order.append("begins")
        answers = self.turns.let_in(), self.turns.let_in()
        self.order.append("ends")
        return answers


def test_a_long_job_lets_short_ones_in() -> None:
    play = Play()
    play.add("a", "long a", is_short=False)
    play.add("b", "short b", is_short=True)
    play.add("c", "short c", is_short=True)
    play.go()
    assert play.order == ["begins", "short b", "short c", "ends", "long a"]
    assert play.long.result() == (True, False), "the second time nobody waited"


def test_jobs_about_one_subject_keep_their_order() -> None:
    play = Play()
    play.add("a", "long a", is_short=False)
    play.add("a", "short a", is_short=True)
    play.add("long", "short of the one that runs", is_short=True)
    play.add("b", "short b", is_short=True)
    play.go()
    assert play.order == [
        *("begins", "short b", "ends"),
        *("long a", "short a", "short of the one that runs"),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_job_leaves_is_done_after_its_answer_and_before_the_next_job(fails: bool) -> None:
    turns = Turns("test")
    order: list[str] = []
    may_begin = threading.Event()

    def job() -> None:
        may_begin.wait(10)
        turns.leave(lambda: order.append("left"))
        if fails:
            raise ValueError

    first = turns.submit("a", job, lambda: True)
    first.add_done_callback(lambda _: order.append("answered"))
    second = turns.submit("b", lambda: order.append("next"), lambda: True)
    may_begin.set()
    second.result(10)
    assert order == ["answered", "left", "next"]


def test_whoever_wants_to_may_wait_for_what_a_job_left() -> None:
    turns = Turns("test")
    may_end = threading.Event()
    done: list[str] = []

    def tidy() -> None:
        may_end.wait(10)
        done.append("left")

    turns.submit("a", lambda: turns.leave(tidy), lambda: True).result(10)
    may_end.set()
    with turns.tidying:
        assert done == ["left"]


def test_they_let_nobody_in() -> None:
    turns = Turns("test")
    may_go = threading.Event()
    answers: list[bool] = []

    def long() -> None:
        may_go.wait(10)
        turns.let_in()

    turns.submit("long", long, lambda: False)
    turns.submit("a", lambda: answers.append(turns.let_in()), lambda: True)
    turns.submit("b", lambda: None, lambda: True)
    may_go.set()
    turns.submit("end", lambda: None, lambda: False).result(10)
    assert answers == [False]


def test_what_a_job_let_in_is_no_part_of_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = [0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns[0])

    def lasting(took_ns: int) -> Callable[[], None]:
        def run() -> None:
            now_ns[0] += took_ns

        return run

    turns = Turns("test")
    may_go = threading.Event()

    def long() -> int:
        may_go.wait(10)
        began_ns = now_ns[0] - turns.aside_ns
        lasting(100)()
        turns.let_in()
        lasting(100)()
        return now_ns[0] - turns.aside_ns - began_ns

    took = turns.submit("long", long, lambda: False)
    turns.submit("a", lasting(7), lambda: True)
    turns.submit("b", lasting(5), lambda: True)
    may_go.set()
    assert took.result(10) == 200
    assert now_ns[0] == 212


def test_a_job_that_fails_tells_who_asked_and_nobody_else() -> None:
    play = Play()

    def fail() -> None:
        raise OSError("no such file")

    failed = play.turns.submit("a", fail, lambda: True)
    play.add("b", "short b", is_short=True)
    play.go()
    assert isinstance(failed.exception(10), OSError)
    assert play.order == ["begins", "short b", "ends"]
