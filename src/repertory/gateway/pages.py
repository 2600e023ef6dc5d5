"""Pages that are generated from the tables in the code, so that they cannot lie.

`python -m repertory.gateway.pages [--check] [FOLDER]`: the rules of the door, the metrics, and the
Grafana board.  With `--check` nothing is written; the exit code says whether they are up to date.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, cast

from repertory.gateway.app import build_app, routes_of
from repertory.gateway.doors.rules import authorisation_page
from repertory.gateway.observe.board import board_page
from repertory.gateway.observe.catalogue import metrics_page
from repertory.live.facade import Service

__all__ = ["PAGES", "main"]


class _Nobody:
    """A service that nobody asks anything: the application is built for its routes."""

    def subscribe(self, _: object) -> Callable[[], None]:
        return lambda: None

    def status(self) -> Any:  # Any: never called
        raise AssertionError("nobody asks")


def _authorisation() -> str:
    service = cast(Service, _Nobody())
    return authorisation_page(routes_of(build_app(service, random=Random(0), unix_s=float)))


PAGES: dict[str, Callable[[], str]] = {
    "authorisation.md": _authorisation,
    "observability/metrics.md": metrics_page,
    "observability/grafana.json": board_page,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs"))
    parser.add_argument("--check", action="store_true", help="Compare only.")
    wishes = parser.parse_args(arguments)
    is_right = True
    for name, page in PAGES.items():
        path = wishes.folder / name
        if wishes.check:
            is_right = is_right and path.exists() and path.read_text() == page()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page())
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
