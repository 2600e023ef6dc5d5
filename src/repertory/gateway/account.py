"""What one request took: for the metrics, and one log line without a word of its text."""

import logging
from collections.abc import Callable

import msgspec

from repertory.gateway.doors.caller import CALLER
from repertory.gateway.metrics import Metrics
from repertory.gateway.observe.decisions import Story
from repertory.gateway.observe.series import Spread
from repertory.live.facade import Generation, Piece

__all__ = ["Account"]

_log = logging.getLogger("repertory.gateway.requests")


class Account:
    """Kept from the first byte of a request to its end; closed exactly once.

    Series are looked up once per request: a token costs a clock and a bucket.
    """

    def __init__(self, metrics: Metrics, now_s: Callable[[], float]) -> None:
        self._metrics = metrics
        self._now_s = now_s
        self._began_s = now_s()
        self._admitted_s: float | None = None
        self._ttft_s: float | None = None
        self._last_s: dict[int, float] = {}
        """By choice: when its last part came."""
        self._inter_token_s: Spread
        self._is_closed = False
        self._generation: Generation | None = None
        """The first; the log line tells its story."""
        self._prompts: list[Generation] = []
        self._stories: list[Story] = []
        self._unmeasured: list[Story] = []
        """Whose wait is not in the metrics yet."""
        self.key = CALLER.get().key
        """The name of the caller's API key; empty without one."""
        self.model = ""
        """Empty until the name is resolved: a label for made-up names would never end."""
        self.output_tokens = 0

    @property
    def prompt_tokens(self) -> int:
        return sum(generation.prompt_tokens for generation in self._prompts)

    @property
    def reused_tokens(self) -> int:
        return sum(generation.reused_tokens for generation in self._prompts)

    def admit(self, generation: Generation, *, is_copy: bool = False) -> None:
        """`is_copy`: another generation of a prompt that is counted already."""
        if not is_copy:
            self._prompts.append(generation)
        story = self._metrics.decisions.story(generation.id)
        if story is not None:
            self._stories.append(story)
            self._unmeasured.append(story)
        if self._generation is None:
            self._generation = generation
            self._admitted_s = self._now_s()
            self._inter_token_s = self._metrics.inter_token_s.of(self.model, self.key)

    def piece(self, piece: Piece, choice: int = 0) -> None:
        """A part of the answer is here."""
        if not piece.tokens:
            return
        now_s = self._now_s()
        last_s = self._last_s.get(choice)
        if last_s is not None:
            self._inter_token_s.observe(now_s - last_s)
        elif self._ttft_s is None:
            self._first(now_s)
        self._last_s[choice] = now_s
        self.output_tokens += len(piece.tokens)

    def close(self, outcome: str, status: int) -> None:
        """The request is over.  Later calls change nothing: the first outcome is the true one."""
        if self._is_closed:
            return
        self._is_closed = True
        metrics, labels = self._metrics, (self.model, self.key)
        metrics.requests.of(*labels, outcome).add()
        if self._generation is not None:
            metrics.prompt_tokens.of(*labels).add(self.prompt_tokens)
            metrics.cached_tokens.of(*labels).add(self.reused_tokens)
            metrics.output_tokens.of(*labels).add(self.output_tokens)
            self._waited()
        if _log.isEnabledFor(logging.INFO):
            _log.info("%s", self._line(outcome, status))

    def _first(self, now_s: float) -> None:
        self._ttft_s = now_s - self._began_s
        self._metrics.ttft_s.of(self.model, self.key).observe(self._ttft_s)
        self._waited()

    def _waited(self) -> None:
        """Who left before a slot was free did not wait to the end: they are not counted."""
        still: list[Story] = []
        for story in self._unmeasured:
            if story.queue_s is None:
                still.append(story)
            else:
                self._metrics.queue_wait_s.of(self.model, self.key).observe(story.queue_s)
        self._unmeasured = still

    def _line(self, outcome: str, status: int) -> str:
        """Seconds by stage: admission (the body, the template, its tokens), queue (loads included),
        prefill, decode.
        """
        generation = self._generation
        story = self._stories[0] if self._stories else None
        decode_s = None
        if self._ttft_s is not None:
            decode_s = max(self._last_s.values()) - self._began_s - self._ttft_s
        admission_s = None if self._admitted_s is None else self._admitted_s - self._began_s
        line = {
            "request": None if generation is None else generation.id,
            "key": self.key,
            "model": self.model,
            "outcome": outcome,
            "status": status,
            "prompt_tokens": None if generation is None else self.prompt_tokens,
            "reused_tokens": None if generation is None else self.reused_tokens,
            "output_tokens": self.output_tokens,
            "admission_s": _rounded(admission_s),
            "queue_s": _rounded(None if story is None else story.queue_s),
            "prefill_s": _rounded(None if story is None else story.prefill_s),
            "decode_s": _rounded(decode_s),
            "ttft_s": _rounded(self._ttft_s),
            "total_s": _rounded(self._now_s() - self._began_s),
        }
        return msgspec.json.encode(line).decode()


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
