"""A running answer, kept by the server: workers may come and go, the generation stays here."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from repertory.domain.errors import (
    ContextExceeded,
    DeadlineMissed,
    Overloaded,
    RepertoryError,
    UnknownModel,
    engine_error,
)
from repertory.domain.requests import Fault, Outcome, OutcomeKind
from repertory.engines.contract import GenerationSpec, TokenStep
from repertory.live.facade import Piece, Progress, Stage

__all__ = ["HIGH_TOKENS", "LOW_TOKENS", "RunningAnswer"]

HIGH_TOKENS = 256
"""Untaken tokens above which a generation is held.  Half a second of the fastest small model, and
10 s of reading: no reader that only hesitates stops a step.  It costs 128 KiB."""
LOW_TOKENS = 64
"""Below it the generation goes on.  Word of that takes a turn of another model (50 ms) at most to
take effect; a reader that takes 1,000 tokens/s meanwhile does not run dry."""


class RunningAnswer:
    """Pieces as they come; ends with a finish, or raises why not.

    Iterate once: pieces are handed out once.  Whoever stops iterating early calls `aclose`.

    A reader that is slower than the model holds up nobody.  What it has not taken yet waits here,
    `buffered_tokens` of it; above `HIGH_TOKENS` the generation is held in its worker, which spends
    its steps on others.  Where that may not be it goes on, and what waits is still never more than
    the `max_tokens` that were asked for (0.5 KiB each, with 20 log-probabilities 6 KiB).
    """

    def __init__(
        self,
        spec: GenerationSpec,
        model: str,
        cancel: Callable[[str], None],
        locate: Callable[[str], Progress],
        hold: Callable[[str, bool], bool],
    ) -> None:
        """`hold` asks for the generation to be held or let go, and says whether it is held then."""
        self.id = spec.id
        self.model = model
        self.spec = spec
        self.prompt_tokens = len(spec.prompt)
        self.reused_tokens = 0
        self.emitted: list[int] = []
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffered_tokens = 0
        """Come, and not taken yet."""
        self.is_held = False
        self._cancel = cancel
        self._hold = hold
        self._locate = locate
        self._pieces: deque[Piece | RepertoryError] = deque()
        self._arrival: asyncio.Future[None] | None = None
        """What the reader waits on.  Measured: 1.3 us per token, with a queue of asyncio's 2.9."""
        self.is_over = False

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self._iterate()

    @property
    def has_more(self) -> bool:
        """The next piece is there already."""
        return bool(self._pieces) and isinstance(self._pieces[0], Piece)

    def progress(self) -> Progress:
        """How far it is, now."""
        return Progress(Stage.DECODE) if self.emitted else self._locate(self.id)

    async def aclose(self) -> None:
        """The client left, or has all it wants."""
        if not self.is_over:
            self.is_over = True
            self._cancel(self.id)

    def take(self, step: TokenStep) -> None:
        """Tokens from the worker."""
        if not self.emitted:  # later it tells what a resume found
            self.reused_tokens = step.reused_tokens
        self.emitted += step.tokens
        if step.error is None:
            self.buffered_tokens += len(step.tokens)
            self._hand_out(
                Piece(
                    step.text,
                    step.tokens,
                    step.finish,
                    step.traces,
                    step.logprobs,
                    step.embedding,
                )
            )
            if self.buffered_tokens > HIGH_TOKENS and not self.is_held and not self.is_over:
                self.is_held = step.finish is None and self._hold(self.id, True)

    def let_go(self) -> None:
        """Its steps go on."""
        self.is_held = self._hold(self.id, False)

    def settle(self, outcome: Outcome) -> None:
        """The one outcome; a failure reaches whoever iterates, or whoever waits to be admitted."""
        error = _error(outcome)
        if error is not None:
            self.fail(error)

    def fail(self, error: RepertoryError) -> None:
        """Nothing more will come, and this is why."""
        self.is_over = True
        if not self.admitted.done():
            self.admitted.set_exception(error)
        else:
            self._hand_out(error)

    def _hand_out(self, piece: Piece | RepertoryError) -> None:
        self._pieces.append(piece)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def _iterate(self) -> AsyncIterator[Piece]:
        while True:
            if not self._pieces:
                self._arrival = asyncio.get_running_loop().create_future()
                await self._arrival
            piece = self._pieces.popleft()
            if isinstance(piece, RepertoryError):
                raise piece
            self.buffered_tokens -= len(piece.tokens)
            if self.is_held and self.buffered_tokens < LOW_TOKENS:
                self.let_go()
            if piece.finish is not None:
                self.is_over = True
            yield piece
            if piece.finish is not None:
                return


def _error(outcome: Outcome) -> RepertoryError | None:
    if outcome.kind in (OutcomeKind.DONE, OutcomeKind.CANCELLED):
        return None
    if outcome.kind is OutcomeKind.REFUSED and outcome.retry_after_s is not None:
        return Overloaded(outcome.message, outcome.retry_after_s)
    if outcome.status == 404:
        return UnknownModel(outcome.message, "model")
    if outcome.status == 504:
        return DeadlineMissed(outcome.message)
    if outcome.status == 400:
        return ContextExceeded(outcome.message)
    return engine_error(outcome.fault or Fault.ENGINE, outcome.message)
