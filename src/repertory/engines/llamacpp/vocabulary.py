"""What a cold model can answer: describe, render, tokenize, grammars, by a vocabulary-only handle.

Runs on its own thread, never in the step loop; the handles are the worker's overhead.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

from repertory.domain.errors import BadRequest, LoadFailed
from repertory.engines.contract import GrammarKind, ModelDescription
from repertory.engines.gguf.files import describe_file
from repertory.engines.grammar import check_followable, gbnf_of
from repertory.engines.grammar.automaton import Grammar, Ids, TokenTree
from repertory.engines.grammar.gbnf import compile_gbnf
from repertory.engines.llamacpp import CHUNK_TOKENS
from repertory.engines.llamacpp.library import Model
from repertory.engines.llamacpp.weights import FileState, file_state

__all__ = ["Unproven", "Vocabularies"]

_MOST_HANDLES = 3
"""Of models that are not open as a whole.  One of 32k tokens holds some 12 MiB and opens in 85 ms,
the time that their load takes as well."""

_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What a template can raise on messages that it does not expect."""
_MOST_REPEATED = 1 << 20
"""Items that a template's `*` may make, and bits of its numbers: honest ones indent a line."""


class Unproven(Exception):
    """A vocabulary that must be tried in a child before this process opens it.

    For the worker alone: it sees to that, and asks again.
    """

    def __init__(self, location: str, digest: str) -> None:
        super().__init__(f"the words of {location} are not proven")
        self.location = location
        self.digest = digest


@dataclass(frozen=True, slots=True)
class _Opened:
    """A vocabulary and its chat template."""

    state: FileState
    model: Model
    template: jinja2.Template | None
    fault: str
    """Why there is no template."""
    is_lent: bool = False
    """It belongs to a model that is open as a whole."""
    words: "dict[bool, _Words]" = field(default_factory=dict)
    """With specials hidden and shown; made when the first grammar asks."""


@dataclass(frozen=True, slots=True)
class _Words:
    """A vocabulary as grammars see it: 32k tokens take 60 ms and 3 MiB."""

    tree: TokenTree
    ends: Ids
    """Tokens that end a generation; they are no text."""


class Vocabularies:
    """The vocabularies used last.  One thread at a time.

    `is_proven` says of a file's digest whether its words may be opened here; one that is open as a
    whole may be.  Whatever looks into a vocabulary raises `Unproven` otherwise.
    """

    def __init__(self, is_proven: Callable[[str], bool]) -> None:
        self._is_proven = is_proven
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._whole: dict[str, tuple[FileState, Model]] = {}
        self._described: dict[str, tuple[FileState, ModelDescription]] = {}

    def describe(self, location: str) -> ModelDescription:
        """A file's facts; read again only if the file changed."""
        state = file_state(Path(location))
        known = self._described.get(location)
        if known is None or known[0] != state:
            known = self._described[location] = (state, _describe(location))
        return known[1]

    def is_unchanged(self, location: str, digest: str) -> bool:
        """The file is known to be the one that was described.  From any thread."""
        state, description = self._described.get(location, (None, None))
        is_same = description is not None and description.digest == digest
        return is_same and state == file_state(Path(location))

    def check_unchanged(self, location: str, digest: str) -> None:
        """Raise if the file is not the one that was described: mapping it could be fatal."""
        described = self.describe(location).digest
        if described != digest:
            name = Path(location).name
            raise LoadFailed(f"{name} is not the file it was ({described[:12]}, not {digest[:12]})")

    def render(
        self,
        location: str,
        messages: Sequence[Mapping[str, Any]],  # Any: wire values, as the contract says
        extra: Mapping[str, Any],
    ) -> tuple[int, ...]:
        """Token ids of a chat, by the file's own template."""
        opened = self._open(location)
        if opened.template is None:
            raise BadRequest(opened.fault, "messages")
        variables = {"add_generation_prompt": True, **extra, "messages": list(messages)}
        try:
            text = opened.template.render(**_specials(opened.model), **variables)
        except _TEMPLATE_FAULTS as error:
            raise BadRequest(f"the chat template refuses this: {error}", "messages") from error
        tokens = opened.model.tokenize(text, adds_specials=False)
        bos = opened.model.bos_token
        if opened.model.adds_bos and bos is not None and tokens[:1] != (bos,):
            tokens = (bos, *tokens)
        if not tokens:
            raise BadRequest("the chat template makes an empty prompt of this", "messages")
        return tokens

    def tokenize(self, location: str, text: str) -> tuple[int, ...]:
        """Token ids of plain text, with the special tokens that the file asks for."""
        return self._open(location).model.tokenize(text, adds_specials=True)

    def detokenize(self, location: str, tokens: Sequence[int]) -> str:
        """Text of tokens, specials shown."""
        model = self._open(location).model
        wrong = next((one for one in tokens if not 0 <= one < model.vocabulary_tokens), None)
        if wrong is not None:
            raise BadRequest(f"token {wrong} is not in the vocabulary", "tokens")
        raw = b"".join(model.piece(token, shows_specials=True) for token in tokens)
        return raw.decode("utf-8", "replace")

    def grammar(self, location: str, kind: GrammarKind, text: str) -> str:
        """GBNF that this vocabulary can follow."""
        gbnf = gbnf_of(kind, text)
        check_followable(self.grammar_of(location, gbnf, shows_specials=False, ignores_ends=False))
        return gbnf

    def grammar_of(
        self, location: str, gbnf: str, *, shows_specials: bool, ignores_ends: bool
    ) -> Grammar:
        """A grammar over this file's tokens, as their bytes stand in the text."""
        opened = self._open(location)
        words = opened.words.get(shows_specials)
        if words is None:
            words = opened.words[shows_specials] = _words(opened.model, shows_specials)
        ends = np.empty(0, np.intp) if ignores_ends else words.ends
        return Grammar(gbnf, compile_gbnf(gbnf), words.tree, ends)

    def adopt(self, location: str, model: Model) -> None:
        """A model that is open as a whole: its vocabulary serves, and a second one is freed."""
        state = file_state(Path(location))
        self._whole[location] = (state, model)
        known = self._opened.get(location)
        if known is not None and known.state == state and not known.is_lent:
            known.model.free()
            self._opened[location] = replace(known, model=model, is_lent=True)

    def release(self, location: str, model: Model) -> None:
        """It is about to be freed: nobody may look into its vocabulary any more."""
        if self._whole.get(location, (None, None))[1] is model:
            del self._whole[location]
        known = self._opened.get(location)
        if known is not None and known.model is model:
            del self._opened[location]

    def _open(self, location: str) -> _Opened:
        state = file_state(Path(location))
        known = self._opened.get(location)
        if known is not None and known.state == state:
            self._opened.move_to_end(location)
            return known
        if known is not None:
            self._forget(location)
        whole_state, whole = self._whole.get(location, (None, None))
        if whole is not None and whole_state == state:
            opened = _opened(state, whole, Path(location).name, is_lent=True)
        else:
            # Our own reader refuses a lying head before the library does.
            digest = self.describe(location).digest
            if not self._is_proven(digest):
                raise Unproven(location, digest)
            model = Model(Path(location), vocabulary_only=True)
            opened = _opened(state, model, Path(location).name, is_lent=False)
        self._opened[location] = opened
        own = [name for name, one in self._opened.items() if not one.is_lent]
        if len(own) > _MOST_HANDLES:
            self._forget(own[0])
        return opened

    def _forget(self, location: str) -> None:
        opened = self._opened.pop(location)
        if not opened.is_lent:
            opened.model.free()


def _describe(location: str) -> ModelDescription:
    return describe_file(Path(location), batch_tokens=CHUNK_TOKENS)


def _opened(state: FileState, model: Model, name: str, *, is_lent: bool) -> _Opened:
    template, fault = None, f"{name} has no chat template: use plain completions"
    if model.chat_template is not None:
        try:
            template, fault = _environment().from_string(model.chat_template), ""
        except _TEMPLATE_FAULTS as error:
            fault = f"the chat template of {name} is broken: {error}"
    return _Opened(state, model, template, fault, is_lent)


def _words(model: Model, shows_specials: bool) -> _Words:
    tokens = range(model.vocabulary_tokens)
    ends = {token for token in tokens if model.is_end(token)}
    pieces = [
        b"" if token in ends else model.piece(token, shows_specials=shows_specials)
        for token in tokens
    ]
    return _Words(TokenTree(pieces), np.array(sorted(ends), np.intp))


def _specials(model: Model) -> dict[str, str]:
    named = {"bos_token": model.bos_token, "eos_token": model.eos_token}
    return {
        name: ""
        if token is None
        else model.piece(token, shows_specials=True).decode("utf-8", "replace")
        for name, token in named.items()
    }


class _Sandbox(ImmutableSandboxedEnvironment):
    """Where a short template cannot ask for all memory.  `'x' * 10**9` was still being compiled
    after three minutes, for constants are computed then; what is intercepted is not."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(
        self,
        context: jinja2.runtime.Context,
        operator: str,
        left: Any,  # whatever a template has
        right: Any,
    ) -> Any:
        if _product_size(operator, left, right) > _MOST_REPEATED:
            raise jinja2.TemplateError(f"it asks for too much by '{operator}'")
        return super().call_binop(context, operator, left, right)


def _product_size(operator: str, left: Any, right: Any) -> int:
    """Bits of a number, items of a sequence; 0: it cannot be large, or is an error of its own."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        return bits * abs(right) if operator == "**" else bits + right.bit_length()
    for count, items in ((left, right), (right, left)):
        if isinstance(count, int) and isinstance(items, str | bytes | list | tuple):
            return max(0, count) * len(items)
    return 0


def _environment() -> ImmutableSandboxedEnvironment:
    """As Hugging Face's `apply_chat_template` sets it up: templates are written against that."""
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any,  # whatever a client sent
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now(UTC).astimezone().strftime(pattern)
