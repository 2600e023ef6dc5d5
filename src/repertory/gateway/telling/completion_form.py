"""text_completion."""

from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence

from msgspec import UNSET

from repertory.engines.contract import TokenLogprob
from repertory.gateway.telling.form import Heading, encode, event, likely, progress_of
from repertory.gateway.telling.shapes import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
)
from repertory.live.facade import Piece, Progress

__all__ = ["CompletionForm"]

_HOLE = "\x00"


class CompletionForm:
    """One answer; `echoes` holds for each choice the text that goes before its own."""

    def __init__(self, heading: Heading, echoes: Sequence[str], has_logprobs: bool) -> None:
        self._heading = heading
        self.writers = [
            _CompletionWriter(self._chunk, index, echo, has_logprobs)
            for index, echo in enumerate(echoes)
        ]

    def whole(self, usage: Usage) -> bytes:
        completion = self._chunk([writer.choice() for writer in self.writers])
        completion.usage = usage
        return encode(completion)

    def usage_event(self, usage: Usage) -> bytes:
        chunk = self._chunk([])
        chunk.usage = usage
        return event(chunk)

    def progress_event(self, progress: Progress) -> bytes:
        chunk = self._chunk([])
        chunk.progress = progress_of(progress)
        return event(chunk)

    def _chunk(self, choices: list[CompletionChoice]) -> Completion:
        heading = self._heading
        usage = None if heading.has_usage else UNSET
        return Completion(
            heading.id, "text_completion", heading.created, heading.model, choices, usage
        )


class _CompletionWriter:
    """One choice.  A plain piece of text is put between bytes that were encoded once."""

    def __init__(
        self,
        chunk: Callable[[list[CompletionChoice]], Completion],
        index: int,
        echo: str,
        has_logprobs: bool,
    ) -> None:
        self._chunk = chunk
        self._index = index
        self._echo = echo
        self._tokens = _Tokens() if has_logprobs else None
        self._texts: list[str] = [echo]
        self._finish: str | None = None
        sample = event(chunk([CompletionChoice(index, _HOLE)]))
        self._before, _, self._behind = sample.rpartition(encode(_HOLE))

    @property
    def reasoning_tokens(self) -> None:
        return None

    def events(self, piece: Piece) -> bytes:
        if self._tokens is None and piece.finish is None and not self._echo:
            text = piece.text
            return self._before + encode(text) + self._behind if text else b""
        if self._tokens is not None:
            self._tokens.take(piece.logprobs)
        text, self._echo = self._echo + piece.text, ""
        if not text and piece.finish is None:
            return b""
        finish = None if piece.finish is None else piece.finish.value
        logprobs = None if self._tokens is None else self._tokens.told()
        return event(self._chunk([CompletionChoice(self._index, text, finish, logprobs)]))

    def keep(self, piece: Piece) -> None:
        self._texts.append(piece.text)
        if self._tokens is not None:
            self._tokens.take(piece.logprobs)
        if piece.finish is not None:
            self._finish = piece.finish.value

    def choice(self) -> CompletionChoice:
        """Of all that was kept."""
        logprobs = None if self._tokens is None else self._tokens.told()
        return CompletionChoice(self._index, "".join(self._texts), self._finish, logprobs)


class _Tokens:
    """Log-probabilities that were not told yet, and where their tokens stand in the text."""

    def __init__(self) -> None:
        self._utf8 = getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self._untold = CompletionLogprobs([], [], [], [])

    def take(self, tokens: Sequence[TokenLogprob]) -> None:
        untold = self._untold
        for token in tokens:
            drawn = token.drawn
            untold.tokens.append(_name(drawn.piece))
            untold.token_logprobs.append(likely(drawn))
            ranked = {_name(one.piece): likely(one) for one in (*token.top, drawn)}
            untold.top_logprobs.append(ranked)
            untold.text_offset.append(self._offset)
            self._offset += len(self._utf8.decode(drawn.piece))

    def told(self) -> CompletionLogprobs:
        untold, self._untold = self._untold, CompletionLogprobs([], [], [], [])
        return untold


def _name(piece: bytes) -> str:
    """As OpenAI writes half characters: two of them must not become one key."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
