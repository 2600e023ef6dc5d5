"""`docs/ladder.md`, drawn from the tables of `domain/ladder.py`, so that the page cannot lie.

`python -m repertory.reports.diagrams [--check] [PATH]`: with `--check` nothing is written, and the
exit code says whether the page is what the tables say.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path

from repertory.domain.ladder import REQUEST_STEPS, TRANSITIONS, RequestState, Rung

__all__ = ["ladder_page", "main"]

_PAGE = Path("docs/ladder.md")
_HEAD = """\
# The residency ladder, and the life of a request

Written by `make docs` from the tables in `src/repertory/domain/ladder.py`; a test compares them.
A move that is not drawn here is a bug of ours and raises `IllegalTransition` with the story so far.
"""
_LADDER = """
## Where a replica's weights are

`disk`: in the file. `host`: in main memory and cheap to load. `device`: on the device without KV \
memory (prewarmed). `serving`: with KV memory, answering. A move that fails leaves the replica \
where it stood. Which of these edges an engine has, it says itself (`Capabilities`).
"""
_REQUEST = """
## Where a request is

Every request ends in `settled`, with exactly one outcome: done, cancelled, refused or failed.
"""


def ladder_page() -> str:
    ladder = [(rung.value, edge.value, to.value) for (rung, edge), to in TRANSITIONS.items()]
    steps = [(state.value, step.value, to.value) for (state, step), to in REQUEST_STEPS.items()]
    request = [*_edges(RequestState.WAITING, steps), f"    {RequestState.SETTLED.value} --> [*]"]
    return f"{_HEAD}{_LADDER}\n{_diagram(_edges(Rung.DISK, ladder))}{_REQUEST}\n{_diagram(request)}"


def _edges(first: Enum, rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """Rows are (from, edge, to)."""
    yield f"    [*] --> {first.value}"
    for origin, edge, target in rows:
        yield f"    {origin} --> {target}: {edge}"


def _diagram(lines: Iterable[str]) -> str:
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=_PAGE)
    parser.add_argument("--check", action="store_true", help="Compare only.")
    wishes = parser.parse_args(arguments)
    if wishes.check:
        is_right = wishes.path.exists() and wishes.path.read_text() == ladder_page()
        return 0 if is_right else 1
    wishes.path.write_text(ladder_page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
