"""From a body's bytes to a wire shape; errors name the field or the byte."""

import re
from typing import TypeVar

import msgspec

from repertory.domain.errors import BadRequest

__all__ = ["decode", "too_deep"]

_Body = TypeVar("_Body", bound=msgspec.Struct)

_PATH = re.compile(r"^(?P<what>.*) - at (?:`key` in )?`\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>\w+)`")


def decode(body: bytes, shape: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        where = "" if "(byte" in reason else f" (byte {len(body)})"
        raise BadRequest(f"The body is not valid JSON: {reason}{where}.") from None
    except UnicodeDecodeError:
        raise BadRequest(f"The body is not valid UTF-8 (byte {_bad_utf8_at(body)}).") from None
    except RecursionError:
        raise too_deep() from None


def too_deep() -> BadRequest:
    """What a decoder takes may still be too deep for a template, a schema or an encoder."""
    return BadRequest("The body is not acceptable JSON: it is nested too deeply.")


def _bad_utf8_at(body: bytes) -> int:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _invalid(message: str) -> BadRequest:
    """msgspec says what and where in one sentence; OpenAI's shape wants them apart."""
    match = _PATH.match(message)
    what, path = (match["what"], match["path"]) if match else (message, "")
    missing = _MISSING.match(what)
    if missing:
        path = f"{path}.{missing['field']}" if path else missing["field"]
        what = "This field is required"
    path = path.removesuffix("[...]") if path.startswith("logit_bias") else path
    if not path:
        return BadRequest(f"The body is not what this endpoint takes: {what}.")
    return BadRequest(f"Invalid '{path}': {what}.", path)
