"""By when a client wants its first token."""

import re

from repertory.domain.errors import BadRequest

__all__ = ["DEADLINE_HEADER", "first_token_by_s"]

DEADLINE_HEADER = "x-repertory-deadline-ms"
_NUMBER = re.compile(r"-?[0-9]{1,9}")
"""Up to eleven days; a deadline that has passed is one, too, and refused as such."""


def first_token_by_s(value: str | None, arrived_s: float) -> float | None:
    """On the clock that says when the request arrived; None: the client did not say."""
    if value is None:
        return None
    if _NUMBER.fullmatch(value.strip()) is None:
        raise BadRequest(
            f"'{DEADLINE_HEADER}' is a whole number of milliseconds, counted from the request's "
            "arrival.",
            DEADLINE_HEADER,
        )
    return arrived_s + int(value) / 1e3
