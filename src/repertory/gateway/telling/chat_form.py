"""chat.completion and chat.completion.chunk."""

from collections.abc import Callable, Sequence
from random import Random

from msgspec import UNSET

from repertory.domain.requests import FinishReason
from repertory.engines.contract import TokenLogprob
from repertory.gateway.reading import Call, Content, Part, Reader, Reasoning
from repertory.gateway.telling.form import Heading, encode, event, likely, progress_of
from repertory.gateway.telling.shapes import (
    CallDelta,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChatToken,
    Delta,
    FunctionDelta,
    RankedToken,
    ToolCall,
    ToolFunction,
    Usage,
)
from repertory.live.facade import Piece, Progress

__all__ = ["ChatForm"]

_CHUNK = "chat.completion.chunk"
_HOLE = "\x00"
_CALL_ID_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_CALL_ID_LENGTH = 9
"""Mistral's templates refuse any other; all others take any."""


class ChatForm:
    """One chat's answer; `readers` holds one for each choice, None where all text is content."""

    def __init__(
        self, heading: Heading, readers: Sequence[Reader | None], has_logprobs: bool, luck: Random
    ) -> None:
        """`luck` draws the ids of calls."""
        self._heading = heading
        self.writers = [
            _ChatWriter(self._chunk, index, reader, has_logprobs, luck)
            for index, reader in enumerate(readers)
        ]

    def whole(self, usage: Usage) -> bytes:
        heading = self._heading
        choices = [writer.choice() for writer in self.writers]
        return encode(
            ChatCompletion(
                heading.id, "chat.completion", heading.created, heading.model, choices, usage
            )
        )

    def usage_event(self, usage: Usage) -> bytes:
        chunk = self._chunk([])
        chunk.usage = usage
        return event(chunk)

    def progress_event(self, progress: Progress) -> bytes:
        chunk = self._chunk([])
        chunk.progress = progress_of(progress)
        return event(chunk)

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        heading = self._heading
        usage = None if heading.has_usage else UNSET
        return ChatChunk(heading.id, _CHUNK, heading.created, heading.model, choices, usage)


class _ChatWriter:
    """One choice.

    A plain piece of text, which most are, is put between bytes that were encoded once.
    """

    def __init__(
        self,
        chunk: Callable[[list[ChatChunkChoice]], ChatChunk],
        index: int,
        reader: Reader | None,
        has_logprobs: bool,
        luck: Random,
    ) -> None:
        self._chunk = chunk
        self._index = index
        self._reader = reader
        self._has_logprobs = has_logprobs
        self._luck = luck
        self._is_quick = False
        """The role was sent, and no log-probabilities go with text."""
        self._is_plain = False
        """It needs no reading either."""
        self._has_begun = False
        self._calls = 0
        self._told_calls = 0
        self._thought = 0
        self._untold: list[ChatToken] = []
        """Log-probabilities that no chunk has carried yet."""
        self._parts: list[Part] = []
        self._finish: str = ""
        sample = event(chunk([ChatChunkChoice(index, Delta(content=_HOLE))]))
        self._before, _, self._behind = sample.rpartition(encode(_HOLE))

    @property
    def reasoning_tokens(self) -> int | None:
        reader = self._reader
        return self._thought if reader is not None and reader.splits_thinking else None

    def events(self, piece: Piece) -> bytes:
        if self._is_plain and piece.finish is None:
            text = piece.text
            return self._before + encode(text) + self._behind if text else b""
        parts = self._read(piece)
        if self._is_quick and piece.finish is None and len(parts) == 1:
            (part,) = parts
            if isinstance(part, Content):
                return self._before + encode(part.text) + self._behind
        return self._read_events(parts, piece.finish)

    def _read_events(self, parts: Sequence[Part], finish: FinishReason | None) -> bytes:
        deltas = [delta for part in parts for delta in self._deltas(part)]
        if finish is not None and (not deltas or self._calls):
            deltas.append(Delta())  # a call's end is told apart, as OpenAI does
        if not deltas:
            return b""
        opening = b""
        if not self._has_begun:
            self._has_begun = True
            self._is_quick = not self._has_logprobs
            self._is_plain = self._is_quick and self._reader is None
            opening = self._event(Delta(role="assistant", content=""))
        *firsts, last = deltas
        told = [self._event(delta) for delta in firsts]
        return b"".join([opening, *told, self._last_event(last, finish)])

    def _event(self, delta: Delta) -> bytes:
        return event(self._chunk([ChatChunkChoice(self._index, delta)]))

    def _last_event(self, delta: Delta, finish: FinishReason | None) -> bytes:
        """The chunk that carries what belongs to all of a piece."""
        choice = ChatChunkChoice(self._index, delta)
        if finish is not None:
            choice.finish_reason = self._reason(finish)
        if self._has_logprobs:
            choice.logprobs = ChatLogprobs(self._untold)
            self._untold = []
        return event(self._chunk([choice]))

    def _deltas(self, part: Part) -> Sequence[Delta]:
        match part:
            case Content(text=text):
                return (Delta(content=text),)
            case Reasoning(text=text):
                return (Delta(reasoning_content=text),)
            case Call(name=name, arguments=arguments):
                at = self._told_calls
                self._told_calls += 1
                function = FunctionDelta(name, "")
                begun = CallDelta(at, self._call_id(), "function", function)
                told = CallDelta(at, function=FunctionDelta(arguments=arguments))
                return (Delta(tool_calls=[begun]), Delta(tool_calls=[told]))

    def keep(self, piece: Piece) -> None:
        self._parts += self._read(piece)
        if piece.finish is not None:
            self._finish = self._reason(piece.finish)

    def choice(self) -> ChatChoice:
        """Of all that was kept."""
        said = "".join(part.text for part in self._parts if isinstance(part, Content))
        thought = "".join(part.text for part in self._parts if isinstance(part, Reasoning))
        calls = [
            ToolCall(self._call_id(), "function", ToolFunction(part.name, part.arguments))
            for part in self._parts
            if isinstance(part, Call)
        ]
        message = ChatMessage(
            role="assistant",
            content=None if calls and not said else said,
            reasoning_content=thought or UNSET,
            tool_calls=calls or UNSET,
        )
        logprobs = ChatLogprobs(self._untold) if self._has_logprobs else None
        return ChatChoice(self._index, message, self._finish, logprobs)

    def _read(self, piece: Piece) -> list[Part]:
        if self._has_logprobs:
            self._untold += map(_chat_token, piece.logprobs)
        reader = self._reader
        if reader is None:
            return [Content(piece.text)] if piece.text else []
        was_thinking = reader.is_thinking
        parts = reader.feed(piece.text)
        if was_thinking or reader.is_thinking:
            self._thought += len(piece.tokens)
        if piece.finish is not None:
            parts += reader.finish()
        self._calls += sum(isinstance(part, Call) for part in parts)
        return parts

    def _reason(self, finish: FinishReason) -> str:
        is_call = self._calls and finish is FinishReason.STOP
        return "tool_calls" if is_call else finish.value

    def _call_id(self) -> str:
        return "".join(self._luck.choices(_CALL_ID_LETTERS, k=_CALL_ID_LENGTH))


def _chat_token(token: TokenLogprob) -> ChatToken:
    drawn = token.drawn
    return ChatToken(
        token=drawn.piece.decode(errors="replace"),
        bytes=list(drawn.piece),
        logprob=likely(drawn),
        top_logprobs=[
            RankedToken(one.piece.decode(errors="replace"), list(one.piece), likely(one))
            for one in token.top
        ],
    )
