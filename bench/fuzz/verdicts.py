"""What an answer may be: JSON where it is promised, named errors, streams with an end."""

import json
from typing import Any, NoReturn

from bench.fuzz.cases import Manner
from bench.fuzz.client import Answer, Talk

__all__ = ["NAMED", "faults", "is_served"]

NAMED = {
    503: {
        *("load_failed", "out_of_memory", "quarantined", "worker_gone", "engine_failed"),
        "overloaded",
    },
    504: {"timeout"},
}
"""Status -> codes that say whose fault it is; any other 5xx is a finding."""
_TEXT = ("text/plain",)
"""Of the metrics' page."""


def faults(talk: Talk) -> list[str]:
    """Everything that is wrong with what came; nothing is owed to a client that left."""
    if talk.case.manner is Manner.LEAVES:
        return [talk.trouble] if talk.trouble else []
    found = [talk.trouble] if talk.trouble else []
    if talk.case.manner is Manner.STALLS:
        found += [f"{one.status} for half a request" for one in talk.answers if one.status < 400]
    for answer in talk.answers:
        try:
            _check(answer)
        except _Wrong as wrong:
            found.append(f"status {answer.status}: {wrong}")
    return found


def is_served(talk: Talk) -> bool:
    return bool(talk.answers) and talk.answers[0].status == 200


class _Wrong(Exception):
    """An answer that nobody should get."""


def _check(answer: Answer) -> None:
    kind = answer.headers.get("content-type", "")
    if not 200 <= answer.status < 600:
        raise _Wrong("no status that HTTP knows")
    if not answer.body and "content-length" in answer.headers:
        if answer.status >= 500:
            raise _Wrong("nothing is said")
        return  # HEAD
    if kind.startswith("text/event-stream"):
        _check_stream(answer)
    elif answer.status == 200 and kind.startswith(_TEXT):
        answer.body.decode()
    elif kind.startswith("application/json"):
        _check_json(answer, _parsed(answer.body))
    else:
        raise _Wrong(f"its content type is {kind!r}: {answer.body[:100]!r}")


def _check_json(answer: Answer, found: Any) -> None:  # Any: JSON
    if answer.status < 400:
        return
    _check_error(answer.status, found)


def _check_error(status: int, found: Any) -> None:
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        raise _Wrong(f"no error of OpenAI's shape: {str(found)[:200]}")
    if status >= 500 and error.get("code") not in NAMED.get(status, ()):
        raise _Wrong(f"an error without a name: {str(error)[:300]}")


def _check_stream(answer: Answer) -> None:
    """Events of JSON, and at the end `[DONE]` or an error."""
    if not answer.is_whole:
        raise _Wrong("a stream without an end")
    last, kind = "", ""
    for line in answer.body.decode().split("\n"):
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            if last == "[DONE]":
                raise _Wrong("something after [DONE]")
            last = line.removeprefix("data: ")
            if last != "[DONE]":
                parsed = _parsed(last.encode())
                if kind == "error":
                    _check_event_error(parsed)
        elif line and not line.startswith(":"):
            raise _Wrong(f"no line of an event: {line[:100]!r}")
    if last != "[DONE]" and kind != "error":
        raise _Wrong(f"a stream that stops without [DONE], after {last[:200]!r}")


def _check_event_error(found: Any) -> None:
    """The status of a late error is gone; its code must be one of those with a name."""
    error = found.get("error") if isinstance(found, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if not isinstance(error, dict) or (
        error.get("type") == "server_error" or code == "internal_error"
    ):
        raise _Wrong(f"an error without a name in a stream: {str(found)[:300]}")


def _parsed(raw: bytes) -> Any:  # JSON
    try:
        return json.loads(raw.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"no JSON: {error}: {raw[:200]!r}") from None


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
