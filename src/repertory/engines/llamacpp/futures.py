"""Futures of threads, one after another."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

__all__ = ["done", "then"]


def done(value: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def then(first: "Future[Any]", begin: Callable[[], "Future[Any]"]) -> "Future[Any]":
    """What `begin` comes to once `first` is over, however that ended."""
    whole: Future[Any] = Future()

    def hand_over(over: "Future[Any]") -> None:
        error = over.exception()
        if error is None:
            whole.set_result(over.result())
        else:
            whole.set_exception(error)

    def go_on(_: "Future[Any]") -> None:
        try:
            begin().add_done_callback(hand_over)
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            whole.set_exception(error)

    first.add_done_callback(go_on)
    return whole
