"""YAML with places: every value knows its line, so every complaint can say where.

The only module that imports yaml.
"""

import difflib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from repertory.config.units import MOST_SECONDS, NEVER, duration_s, size_bytes
from repertory.domain.errors import ConfigError

__all__ = ["Value", "nearest", "read_yaml"]

_KINDS = {
    "tag:yaml.org,2002:str": "text",
    "tag:yaml.org,2002:int": "a whole number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:bool": "true or false",
    "tag:yaml.org,2002:null": "nothing",
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:seq": "a list",
    "tag:yaml.org,2002:map": "a mapping",
}


def read_yaml(text: str, source: str, first: str = "models") -> "Value":
    """The root of a document; `ConfigError` with its place if it is none.  `first`: a key that
    every such file has.
    """
    try:
        node = yaml.compose(text, Loader=_Shallow)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{place}: not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{source}:{line}: not valid YAML: {error.reason}") from None
    if node is None:
        raise ConfigError(f"{source}:1: the file is empty; it needs at least '{first}:'")
    return Value(node, source, "")


_MOST_DEPTH = 32
"""The deepest key there is stands at 4.  The time of a flow's mapping grows with its depth."""


class _Shallow(yaml.SafeLoader):
    """Reads no further where a document is nested too deeply."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """`index`: a key node, a number or None, as the library has it, hence `Any`."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "it is nested too deeply", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class Value:
    """A node, read as what the caller wants it to be."""

    def __init__(self, node: yaml.Node, source: str, name: str) -> None:
        self._node = node
        self._source = source
        self.name = name
        """Where in the document, in words: `models.coder.path`."""

    @property
    def place(self) -> str:
        mark = self._node.start_mark
        return f"{self._source}:{mark.line + 1}:{mark.column + 1}"

    def wrong(self, what: str) -> ConfigError:
        """A complaint about this value, with its place."""
        name = f"'{self.name}' " if self.name else ""
        return ConfigError(f"{self.place}: {name}{what}")

    def pairs(self) -> list[tuple["Value", "Value"]]:
        """A mapping's keys and values, as they stand there: a key may come twice."""
        if not isinstance(self._node, yaml.MappingNode):
            raise self.wrong(f"must be a mapping, not {self._kind}")
        return [
            (Value(key, self._source, name), Value(node, self._source, name))
            for key, node in self._node.value
            for name in (self._below(key),)
        ]

    def key(self) -> str:
        """The text of a mapping's key."""
        if not isinstance(self._node, yaml.ScalarNode):
            raise self.wrong("has a key that is no text")
        if self._node.tag == "tag:yaml.org,2002:merge":
            raise self.wrong("merges another mapping; that is not read here: write its keys out")
        return str(self._node.value)

    @property
    def is_null(self) -> bool:
        return bool(self._node.tag == "tag:yaml.org,2002:null")

    def items(self) -> Iterator["Value"]:
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.wrong(f"must be a list, not {self._kind}")
        for at, node in enumerate(self._node.value):
            yield Value(node, self._source, f"{self.name}[{at}]")

    def is_text(self, text: str) -> bool:
        return isinstance(self._node, yaml.ScalarNode) and self._node.value == text

    def text(self) -> str:
        if self._node.tag != "tag:yaml.org,2002:str":
            raise self.wrong(f"must be text, not {self._kind}{self._quoted}")
        return str(self._node.value)

    def whole(self, least: int, most: int) -> int:
        """A whole number within bounds."""
        number = self._constructed("int")
        if not isinstance(number, int) or not least <= number <= most:
            raise self.wrong(f"must be a whole number from {least} to {most}, not {self._shown}")
        return number

    def number(self, most: float) -> float:
        """Above zero, whole or not."""
        number = self._constructed("float")
        number = self._constructed("int") if number is None else number
        if not isinstance(number, (int, float)) or not 0 < number <= most:
            raise self.wrong(f"must be a number above 0, at most {most:g}, not {self._shown}")
        return float(number)

    def truth(self) -> bool:
        truth = self._constructed("bool")
        if not isinstance(truth, bool):
            raise self.wrong(f"must be true or false, not {self._shown}")
        return truth

    def choice(self, words: Collection[str]) -> str:
        """One of these words."""
        word = str(self._node.value)
        if not isinstance(self._node, yaml.ScalarNode) or word not in words:
            raise self.wrong(f"cannot be {self._shown}; {nearest(word, words)}")
        return word

    def size_bytes(self) -> int:
        size = size_bytes(self._scalar)
        if not size:
            raise self.wrong(f"must be a size such as 8GiB or 500MB, not {self._shown}")
        return size

    def duration_s(self) -> float | None:
        """None: never.  A number is seconds."""
        number = self._constructed("int")
        number = self._constructed("float") if number is None else number
        if isinstance(number, (int, float)):
            seconds = None if not 0 <= number <= MOST_SECONDS else float(number)
            is_never = number == -1
        else:
            seconds, is_never = duration_s(self._scalar), self._scalar.strip() in NEVER
        if seconds is None and not is_never:
            raise self.wrong(f"must be a duration such as 30m, 5s or never, not {self._shown}")
        return seconds

    def path(self, folder: Path) -> Path:
        """Relative ones are relative to the file they stand in."""
        text = self.text()
        try:
            return folder / Path(text).expanduser()
        except (RuntimeError, ValueError):
            raise self.wrong(f"cannot be {self._shown}: no such user") from None

    def _below(self, key: yaml.Node) -> str:
        """The name of what stands under a key."""
        if not isinstance(key, yaml.ScalarNode):
            return self.name
        return f"{self.name}.{key.value}" if self.name else str(key.value)

    @property
    def written(self) -> str:
        """As it stands there; nothing of what is a list or a mapping."""
        return self._scalar

    @property
    def _scalar(self) -> str:
        return str(self._node.value) if isinstance(self._node, yaml.ScalarNode) else ""

    @property
    def _kind(self) -> str:
        return _KINDS.get(self._node.tag, f"{self._node.tag}")

    @property
    def _shown(self) -> str:
        return repr(self._scalar) if isinstance(self._node, yaml.ScalarNode) else self._kind

    @property
    def _quoted(self) -> str:
        is_scalar = isinstance(self._node, yaml.ScalarNode) and self._node.value
        return f'; write "{self._node.value}" in quotes' if is_scalar else ""

    def _constructed(self, kind: str) -> object:
        """YAML's own reading (0x10, 1_000, yes), where the node is of that kind at all."""
        if self._node.tag != f"tag:yaml.org,2002:{kind}":
            return None
        try:
            found: object = yaml.constructor.SafeConstructor().construct_object(self._node)
        except (ValueError, KeyError, yaml.YAMLError):
            return None
        return found


def nearest(word: str, known: Collection[str]) -> str:
    """What may have been meant, or what there is."""
    near = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known are {', '.join(known)}"
