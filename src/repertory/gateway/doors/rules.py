"""Who may ask for what: one table, the page that is generated from it, and nothing else.

A path whose first part has no rule is an operator's: whoever forgets a rule locks, and does not
open.  A test goes through the page against the running application.
"""

from collections.abc import Iterable
from enum import Enum

__all__ = ["KINDS", "RULES", "Access", "Kind", "access_of", "answer_to", "authorisation_page"]


class Access(Enum):
    """What a path needs once there are keys."""

    ANYONE = "no key"
    CLIENT = "any key, for the models that it may use"
    READER = "a key that may use all models: the page names them all"
    ADMIN = "an admin key"


RULES: dict[str, Access] = {
    "v1": Access.CLIENT,
    "tokenize": Access.CLIENT,  # where vLLM has them
    "detokenize": Access.CLIENT,
    "health": Access.ANYONE,
    "metrics": Access.READER,
    "admin": Access.ADMIN,
}
"""By the first part of the path."""


class Kind(Enum):
    """What a caller brings."""

    NONE = "none"
    WRONG = "wrong"
    KEY = "API key"
    LIMITED = "API key, other model"
    ADMIN = "admin key"
    REVOKED = "revoked"


KINDS = tuple(Kind)

_HEAD = """\
# Who may ask for what

Written by `make docs` from the routes of the application and the rules in
`src/repertory/gateway/doors/rules.py`; a test goes through it against the running application.

Without a `keys.json` in the state folder nobody needs a key, and the server listens on loopback
only (unless `--no-auth`). With one, also an empty one, it is as below. Keys are sent as
`Authorization: Bearer KEY` or `x-api-key: KEY`.

While nobody needs a key and the server listens on loopback, web pages from elsewhere that run in a
browser of this machine get 403, whatever they ask for; programs send no `Origin`:

| request | answer |
| --- | --- |
| `Origin` missing, or http(s) at `localhost`, 127.0.0.0/8 or `[::1]`, with any port | passes |
| any other `Origin`, also `null` | 403 `foreign_origin` |
| `Host` other than `localhost` or a loopback address (DNS rebinding) | 403 `foreign_host` |

With keys:

"passes": the endpoint answers. 401: no key, or none that is known. 403: the key is known and may
not. 404: the model does not exist for this key (`model_not_found`), and lists leave it out.
"""


def access_of(path: str) -> Access:
    """The rule of a path; `/v1/models` has that of `v1`."""
    return RULES.get(path.split("/", 2)[1] if path.startswith("/") else path, Access.ADMIN)


def answer_to(method: str, path: str, kind: Kind) -> str:
    """What a caller of that kind gets: `passes`, or the status of the refusal."""
    access = access_of(path)
    if access is Access.ANYONE or kind is Kind.ADMIN:
        return "passes"
    if kind in (Kind.NONE, Kind.WRONG, Kind.REVOKED):
        return "401"
    if access is Access.ADMIN or (access is Access.READER and kind is Kind.LIMITED):
        return "403"
    if kind is Kind.LIMITED and (method == "POST" or "{" in path):
        return "404"
    return "passes"


def authorisation_page(routes: Iterable[tuple[str, str]]) -> str:
    """`routes`: method and path of every route."""
    lines = [_HEAD]
    lines.append(_row(["endpoint", "needs", *(kind.value for kind in KINDS)]))
    lines.append(_row(["---"] * (2 + len(KINDS))))
    for method, path in sorted(set(routes), key=lambda route: (route[1], route[0])):
        answers = [answer_to(method, path, kind) for kind in KINDS]
        lines.append(_row([f"`{method} {path}`", access_of(path).value, *answers]))
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
