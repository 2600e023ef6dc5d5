"""`docs/api.md`, written from the tables of `fields.py`, so that the page cannot lie.

`python -m repertory.gateway.asking.api_page [PATH]` writes it; a test compares it.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from repertory.gateway.asking.fields import CHAT, COMPLETION, EMBEDDING, HEADERS, Fate, Field

__all__ = ["api_page", "main"]

_HEAD = """\
# The HTTP API, field by field

Written by `make docs` from the tables in `src/repertory/gateway/asking/fields.py`; a test compares
them, and that every field of OpenAI's published request schema is in them. A field that is
*ignored* would not change the answer; one that is *refused* would, and is a 400 that names it. A
field that nobody here knows is ignored.
"""
_PAGES = (
    ("POST /v1/chat/completions", CHAT),
    ("POST /v1/completions", COMPLETION),
    ("POST /v1/embeddings", EMBEDDING),
    ("Headers of all three", HEADERS),
)


def api_page() -> str:
    return _HEAD + "".join("".join(_table(title, fields)) for title, fields in _PAGES)


def _table(title: str, fields: Mapping[str, Field]) -> Iterator[str]:
    yield f"\n## {title}\n\n| field | is | of | |\n|---|---|---|---|\n"
    order = list(Fate)
    for name, field in sorted(fields.items(), key=lambda one: (order.index(one[1].fate), one[0])):
        yield f"| `{name}` | {field.fate.value} | {field.origin} | {field.note} |\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/api.md"))
    parser.parse_args(arguments).path.write_text(api_page())


if __name__ == "__main__":
    main()
