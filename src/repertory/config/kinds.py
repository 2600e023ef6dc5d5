"""Kinds of values in `repertory.yaml`: how each is read, and how a JSON schema says the same.

A mistake does not end the reading: it is noted, and what follows it is read too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from repertory.config.nodes import Value, nearest
from repertory.config.units import DURATION, MOST_SECONDS, NEVER, SIZE
from repertory.domain.errors import ConfigError

__all__ = [
    "AutoOr",
    "Choice",
    "Duration",
    "Endpoint",
    "Entries",
    "FilePath",
    "Key",
    "Kind",
    "ListOf",
    "Mapping",
    "Name",
    "Placed",
    "Reading",
    "Size",
    "Text",
    "Truth",
    "Whole",
]

_Read_co = TypeVar("_Read_co", covariant=True)
_Read = TypeVar("_Read")

Schema = dict[str, Any]  # Any: JSON


class Reading:
    """One reading of one file: where relative paths begin, and what is wrong so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._complaints: list[ConfigError] = []

    def complain(self, complaint: ConfigError) -> None:
        self._complaints.append(complaint)

    def end(self) -> None:
        """Raises if anything was wrong; the complaints are in the order of the file's parts."""
        if self._complaints:
            raise ConfigError("\n".join(str(one) for one in self._complaints))


class Kind(Protocol[_Read_co]):
    """What may stand at a place."""

    def read(self, value: Value, reading: Reading) -> _Read_co:
        """`ConfigError` with the place if it is not of this kind."""
        ...

    def schema(self) -> Schema: ...


@dataclass(frozen=True, slots=True)
class Placed(Generic[_Read]):
    """What was read, and where it stands."""

    value: _Read
    at: Value


@dataclass(frozen=True, slots=True)
class Text:
    def read(self, value: Value, reading: Reading) -> str:
        text = value.text()
        if not text:
            raise value.wrong("is empty; write something, or leave the key out")
        return text

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


_NAME = r"[^\s/\x00-\x1f][^\s\x00-\x1f]{0,199}"


@dataclass(frozen=True, slots=True)
class Name:
    """Of a model, as clients write it."""

    def read(self, value: Value, reading: Reading) -> str:
        return self.check(value, value.text())

    def check(self, value: Value, text: str) -> str:
        if not re.fullmatch(_NAME, text):
            raise value.wrong("is no name for a model: no spaces, at most 200 characters")
        return text

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^{_NAME}$"}


_ENDPOINT = r"[^\s/]{1,250}:[0-9]{1,5}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Of another program: where it listens."""

    def read(self, value: Value, reading: Reading) -> str:
        text = value.text()
        if not re.fullmatch(_ENDPOINT, text):
            raise value.wrong("is no HOST:PORT, such as 127.0.0.1:50052")
        return text

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^{_ENDPOINT}$"}


@dataclass(frozen=True, slots=True)
class Whole:
    least: int
    most: int

    def read(self, value: Value, reading: Reading) -> int:
        return value.whole(self.least, self.most)

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Truth:
    def read(self, value: Value, reading: Reading) -> bool:
        return value.truth()

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Choice:
    words: Sequence[str]

    def read(self, value: Value, reading: Reading) -> str:
        return value.choice(self.words)

    def schema(self) -> Schema:
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes, with a unit."""

    def read(self, value: Value, reading: Reading) -> int:
        return value.size_bytes()

    def schema(self) -> Schema:
        return {
            "type": "string",
            "pattern": f"^ *{SIZE} *$",
            "not": {"type": "string", "pattern": "^[ 0.]*[a-zA-Z]"},
            "examples": ["8GiB", "500MB"],
        }


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, with a unit or without; None is never."""

    def read(self, value: Value, reading: Reading) -> float | None:
        return value.duration_s()

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "string", "pattern": f"^ *({DURATION}|{'|'.join(NEVER)}) *$"},
                {"type": "number", "minimum": 0, "maximum": MOST_SECONDS},
                {"const": -1},
            ],
            "examples": ["30m", "1h30m", "never"],
        }


@dataclass(frozen=True, slots=True)
class FilePath:
    """Relative ones are relative to the file they stand in."""

    must_exist: bool = False

    def read(self, value: Value, reading: Reading) -> Path:
        Text().read(value, reading)
        path = value.path(reading.folder)
        if self.must_exist and not _is_there(path):
            raise value.wrong(f"is not there: {path}; correct it, or put the file there")
        return path

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a folder that may not be looked into, a name too long
        return False


@dataclass(frozen=True, slots=True)
class ListOf(Generic[_Read]):
    """Of one kind, no two alike."""

    kind: Kind[_Read]
    least: int = 0
    needs: str = ""
    """What to write where there are fewer."""
    is_unique: bool = True

    def read(self, value: Value, reading: Reading) -> list[Placed[_Read]]:
        items = list(value.items())
        if len(items) < self.least:
            raise value.wrong(f"must name at least {self.needs}")
        found: list[Placed[_Read]] = []
        for item in items:
            try:
                found.append(Placed(self.kind.read(item, reading), item))
            except ConfigError as wrong:
                reading.complain(wrong)
        return found

    def schema(self) -> Schema:
        schema: Schema = {"type": "array", "items": self.kind.schema()}
        if self.least:
            schema["minItems"] = self.least
        if self.is_unique:
            schema["uniqueItems"] = True
        return schema


@dataclass(frozen=True, slots=True)
class AutoOr(Generic[_Read]):
    """`auto`, which reads as None, or what is spelled out."""

    kind: Kind[_Read]

    def read(self, value: Value, reading: Reading) -> _Read | None:
        return None if value.is_text("auto") else self.kind.read(value, reading)

    def schema(self) -> Schema:
        return {"anyOf": [{"const": "auto"}, self.kind.schema()]}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping.  Its row is all that the parser, the schema and the docs know of it."""

    name: str
    kind: Kind[Any]  # Any: what it reads is known to who asks for it by name
    says: str
    """What it is for."""
    default: object = None
    """What holds where it is not written, if that is a plain value."""
    needs: str = ""
    """For a key that must be there: what to write."""

    def schema(self) -> Schema:
        schema = {"description": self.says, **self.kind.schema()}
        if self.needs:
            return schema
        if self.default is not None:
            schema["default"] = self.default
        return _or_null(schema)


@dataclass(frozen=True, slots=True)
class Mapping:
    """These keys and no others; what is null is as good as not written."""

    keys: Sequence[Key]

    def read(self, value: Value, reading: Reading) -> dict[str, Placed[Any]]:
        known = {key.name: key for key in self.keys}
        found: dict[str, Placed[Any]] = {}
        written: dict[str, Value] = {}
        given: set[str] = set()
        for at, each in value.pairs():
            try:
                name = _once(at, written)
                if name not in known:
                    raise at.wrong(f"is not known here; {nearest(name, known)}")
                if not each.is_null:
                    given.add(name)
                    found[name] = Placed(known[name].kind.read(each, reading), each)
            except ConfigError as wrong:
                reading.complain(wrong)
        for key in self.keys:
            if key.needs and key.name not in given:
                reading.complain(value.wrong(f"needs '{key.name}', {key.needs}"))
        return found

    def schema(self) -> Schema:
        schema: Schema = {
            "type": "object",
            "additionalProperties": False,
            "properties": {key.name: key.schema() for key in self.keys},
        }
        needed = [key.name for key in self.keys if key.needs]
        return {**schema, "required": needed} if needed else schema


@dataclass(frozen=True, slots=True)
class Entries(Generic[_Read]):
    """A mapping whose keys are names of models."""

    kind: Kind[_Read]
    name: Name = field(default_factory=Name)

    def read(self, value: Value, reading: Reading) -> dict[str, Placed[_Read]]:
        """By name; `at` is the key's place."""
        pairs = value.pairs()
        if not pairs:
            raise value.wrong("must name at least one model")
        found: dict[str, Placed[_Read]] = {}
        written: dict[str, Value] = {}
        for at, each in pairs:
            try:
                name = self.name.check(at, _once(at, written))
                found[name] = Placed(self.kind.read(each, reading), at)
            except ConfigError as wrong:
                reading.complain(wrong)
        return found

    def schema(self) -> Schema:
        return {
            "type": "object",
            "minProperties": 1,
            "propertyNames": self.name.schema(),
            "additionalProperties": self.kind.schema(),
        }


def _once(at: Value, written: dict[str, Value]) -> str:
    """A key's text; one that comes twice is refused."""
    text = at.key()
    if text in written:
        first = written[text].place
        raise at.wrong(f"is there twice, first at {first}; take one away, or rename it")
    written[text] = at
    return text


def _or_null(schema: Schema) -> Schema:
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
