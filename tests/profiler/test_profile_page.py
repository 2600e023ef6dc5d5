"""`docs/profile.md` has every field of a profile file, in order, and no other."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from repertory.domain import readings
from repertory.live.profile_files import FORMAT, ProfileFile

PAGE = (Path(__file__).parents[2] / "docs/profile.md").read_text()
NOUNS: list[Any] = [ProfileFile]
NOUNS += [
    noun
    for name in readings.__all__
    if is_dataclass(noun := getattr(readings, name)) and isinstance(noun, type)
]


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.__name__)
def test_every_field_is_explained(noun: Any) -> None:
    chapter = PAGE.partition(f"### `{noun.__name__}`\n")[2].partition("\n### ")[0]
    named = re.findall(r"^\| `(\w+)` \| \S", chapter, re.MULTILINE)
    assert named == [one.name for one in fields(noun)]


def test_the_format_is_the_one_that_is_written() -> None:
    assert f"| `format` | {FORMAT} |" in PAGE
