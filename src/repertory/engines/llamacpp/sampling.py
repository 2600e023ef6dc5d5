"""Drawing the next token.  A pure function of the logits, the tokens so far, seed and position.

Filters apply in llama.cpp's order: bias, penalties, top-k, top-p, min-p, then temperature.  A
grammar comes before the filters, but only where the first draw breaks it.  Repetition is penalised
over prompt and output, presence and frequency over the output alone (as vLLM does; what a client
wrote does not count against what the model may write).  Equal logits rank by the lower id.

All other cores wait for a draw, so a 32k vocabulary must cost some 60 µs at most: nothing ever
sorts the whole row, and what `top_k` leaves is handled as Python's own numbers: a call of numpy
takes 1 to 2 µs, and three times that where a step has just gone through all caches.
"""

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from repertory.engines.contract import LogitsTrace, Ranked, Sampling, TokenLogprob
from repertory.engines.grammar.automaton import Automaton

__all__ = [
    "Likeliest",
    "NotANumber",
    "TokenSampler",
    "draw",
    "likeliest",
    "logprobs",
    "trace",
    "uniform",
]

Logits = NDArray[np.float32]
Ids = NDArray[np.intp]

_ROWS = 32
_MOST_SETS = 64
_FEW = 128
_BINS = 4096
_BINS_PER_NAT = np.float32(128)
_TALLY_FIRST_SIZE = 64
_NUCLEUS_FIRST_TRY = 256
_TRACE_VALUES = 32
_MASK = (1 << 64) - 1


class NotANumber(ArithmeticError):
    """The model computed no usable logits."""


class _Tally:
    """Unique ids with a count each, as arrays that grow: a dict would be copied for every token."""

    def __init__(self) -> None:
        self._ids: Ids = np.empty(_TALLY_FIRST_SIZE, np.intp)
        self._counts = np.zeros(_TALLY_FIRST_SIZE, np.float32)
        self._where: dict[int, int] = {}

    def add(self, token: int) -> None:
        index = self._where.get(token)
        if index is None:
            index = self._where[token] = len(self._where)
            if index == self._ids.size:
                self._ids = np.resize(self._ids, 2 * index)
                self._counts = np.concatenate((self._counts, np.zeros(index, np.float32)))
            self._ids[index] = token
        self._counts[index] += 1

    @property
    def ids(self) -> Ids:
        return self._ids[: len(self._where)]

    @property
    def counts(self) -> Logits:
        return self._counts[: len(self._where)]


class TokenSampler:
    """The draws of one generation; holds the counts that the penalties need, and its place in the
    grammar.  Both are functions of the tokens so far.
    """

    def __init__(
        self, sampling: Sampling, prompt: Iterable[int], grammar: Automaton | None = None
    ) -> None:
        self._sampling = sampling
        self._grammar = grammar
        self._bias_ids = np.array([token for token, _ in sampling.logit_bias], np.intp)
        self._bias = np.array([bias for _, bias in sampling.logit_bias], np.float32)
        self._is_repetition = sampling.repetition_penalty != 1.0
        self._is_count = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        self._seen = _Tally()
        self._made = _Tally()
        if self._is_repetition:
            for token in prompt:
                self._seen.add(token)

    def accept(self, token: int) -> None:
        """Take note of an emitted token."""
        if self._is_repetition:
            self._seen.add(token)
        if self._is_count:
            self._made.add(token)
        if self._grammar is not None:
            self._grammar.accept(token)

    @property
    def is_complete(self) -> bool:
        """The grammar's text ends here."""
        return self._grammar is not None and self._grammar.is_complete

    def next(self, logits: Logits, position: int) -> int | None:
        """The token at `position` of the sequence; None if the grammar allows none."""
        if self._is_repetition or self._is_count or self._bias.size:
            logits = self._changed(logits)
        token = draw(logits, self._sampling, position)
        if self._grammar is None or self._grammar.allows(token):
            return token
        # As in llama.cpp: most draws keep to the grammar, and one token is tested in a
        # microsecond, all of them in a millisecond.
        allowed = self._grammar.allowed()
        logits = np.where(allowed, logits, np.float32(-np.inf))
        if not np.isfinite(logits.max()):
            return None
        token = draw(logits, self._sampling, position)
        # Luck so near to 1 that it rounds up to the end of the line lands on the last of it.
        return token if allowed[token] else int(logits.argmax())

    def _changed(self, logits: Logits) -> Logits:
        changed = logits.copy()
        changed[self._bias_ids] += self._bias
        if self._is_repetition:
            values = changed[self._seen.ids]
            factor = np.float32(self._sampling.repetition_penalty)
            changed[self._seen.ids] = np.where(values > 0, values / factor, values * factor)
        if self._is_count:
            frequency = np.float32(self._sampling.frequency_penalty)
            presence = np.float32(self._sampling.presence_penalty)
            changed[self._made.ids] -= self._made.counts * frequency + presence
        return changed


@dataclass(frozen=True, slots=True)
class Likeliest:
    """Natural logarithms of probabilities, by the model alone."""

    drawn: float
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def likeliest(logits: Logits, drawn: int, count: int) -> Likeliest:
    """How likely the drawn token was, and the `count` likeliest of a raw row."""
    best = float(logits.max())
    total = best + math.log(float(np.exp(logits - np.float32(best)).sum(dtype=np.float64)))
    ids = _top(logits, min(count, logits.size)) if count > 0 else np.empty(0, np.intp)
    return Likeliest(
        float(logits[drawn]) - total,
        tuple(ids.tolist()),
        tuple(float(logits[one]) - total for one in ids),
    )


def logprobs(
    logits: Logits, token: int, count: int | None, piece: Callable[[int, bool], bytes]
) -> tuple[TokenLogprob, ...]:
    """Of a token that was drawn, with `count` of the likeliest; None: nobody asked.

    `piece` gives a token's bytes, specials shown if its second argument says so.
    """
    if count is None:
        return ()
    found = likeliest(logits, token, count)
    top = (
        Ranked(other, piece(other, True), logprob)
        for other, logprob in zip(found.ids, found.logprobs, strict=True)
    )
    return (TokenLogprob(Ranked(token, piece(token, True), found.drawn), tuple(top)),)


def draw(logits: Logits, sampling: Sampling, position: int) -> int:
    """One token from a row of logits."""
    if 1 < sampling.top_k <= _FEW and sampling.temperature > 0.0:
        return _draw_from_few(logits, sampling, uniform(sampling.seed, position))
    best = int(logits.argmax())  # the first of equals: the lower id
    if not np.isfinite(logits[best]):
        raise NotANumber("the model's logits are not finite")
    if sampling.temperature <= 0.0 or sampling.top_k == 1:
        return best
    luck = uniform(sampling.seed, position)
    ids = _candidates(logits, sampling, float(logits[best]))
    if ids is None:
        return _draw_from_all(logits, sampling.temperature, float(logits[best]), luck)
    weights = np.exp((logits[ids] - logits[best]).astype(np.float64) / sampling.temperature)
    cumulated = weights.cumsum()
    return int(ids[_at(cumulated, luck)])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but (seed, position): splitmix64, twice."""
    return (_mix(_mix(seed & _MASK) ^ (position & _MASK)) >> 11) / (1 << 53)


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _draw_from_few(logits: Logits, sampling: Sampling, luck: float) -> int:
    """From the `top_k` likeliest and what the other filters leave of them."""
    ids = _top(logits, min(sampling.top_k, logits.size))
    values: list[float] = logits[ids].tolist()
    best = values[0]
    if not math.isfinite(best):
        raise NotANumber("the model's logits are not finite")
    if sampling.top_p < 1.0:
        cumulated = list(accumulate(math.exp(value - best) for value in values))
        goal = max(sampling.top_p, 0.0) * cumulated[-1]
        del values[bisect_left(cumulated, goal) + 1 :]
    if sampling.min_p > 0.0:
        bound = best + math.log(min(sampling.min_p, 1.0))
        values = [value for value in values if value >= bound]
    temperature = sampling.temperature
    cumulated = list(accumulate(math.exp((value - best) / temperature) for value in values))
    drawn = bisect_right(cumulated, luck * cumulated[-1])
    return int(ids[min(drawn, len(values) - 1)])


def _candidates(logits: Logits, sampling: Sampling, best: float) -> Ids | None:
    """The ids that pass the filters, likeliest first; None if all do."""
    size = logits.size
    top_k = sampling.top_k if 0 < sampling.top_k < size else size
    ids: Ids | None = None
    if top_k < size:
        ids = _top(logits, top_k)
    if sampling.top_p < 1.0:
        ids = _nucleus(logits, ids, max(sampling.top_p, 0.0), best)
    if sampling.min_p > 0.0:
        bound = best + float(np.log(min(sampling.min_p, 1.0)))
        pool = np.flatnonzero(logits >= bound) if ids is None else ids[logits[ids] >= bound]
        ids = pool
    return ids


def _top(logits: Logits, count: int) -> Ids:
    """The `count` greatest, likeliest first.

    The count-th greatest of some disjoint sets' maxima bounds the count-th greatest value from
    below, so only what passes it is sorted.  The sets are columns: numpy is quick along rows.
    """
    rows = min(_MOST_SETS, logits.size // (4 * count))
    if rows < 2:
        pool, greatest = np.arange(logits.size), logits
    else:
        columns = logits.size // rows
        maxima = logits[: columns * rows].reshape(rows, columns).max(axis=0)
        maxima.partition(columns - count)
        pool, greatest = np.flatnonzero(logits >= maxima[columns - count]), maxima[-count:]
    if math.isnan(greatest.sum()):  # to numpy, what is no number is greater than all
        raise NotANumber("the model's logits are not numbers")
    order = (-logits[pool]).argsort(kind="stable")  # stable: equal logits stay in order of id
    return pool[order[:count]]


def _nucleus(logits: Logits, ids: Ids | None, share: float, best: float) -> Ids:
    """The least set of the likeliest whose probability reaches `share`."""
    if ids is not None:
        weights = np.exp(logits[ids] - np.float32(best)).astype(np.float64)
        return ids[: _count_to(weights.cumsum(), share * float(weights.sum()))]
    weights = np.exp(logits - np.float32(best))
    goal = share * float(weights.sum())
    ids = _top(logits, min(_NUCLEUS_FIRST_TRY, logits.size))
    cumulated = weights[ids].cumsum(dtype=np.float64)
    if cumulated[-1] >= goal:
        return ids[: _count_to(cumulated, goal)]
    return _wide_nucleus(logits, weights, goal, best)


def _wide_nucleus(logits: Logits, weights: Logits, goal: float, best: float) -> Ids:
    """The same by a histogram of the distance from the best: only one bin is sorted."""
    falls = np.minimum((np.float32(best) - logits) * _BINS_PER_NAT, _BINS - 1).astype(np.intp)
    cumulated = np.bincount(falls, weights, _BINS).cumsum()
    last = _count_to(cumulated, goal) - 1
    above = np.flatnonzero(falls < last)
    level = np.flatnonzero(falls == last)
    level = level[(-logits[level]).argsort(kind="stable")]
    before = float(cumulated[last - 1]) if last else 0.0
    count = _count_to(weights[level].cumsum(dtype=np.float64), goal - before)
    return np.concatenate((above, level[:count]))


def _count_to(cumulated: NDArray[np.float64], goal: float) -> int:
    return min(int(cumulated.searchsorted(goal)) + 1, cumulated.size)


def _draw_from_all(logits: Logits, temperature: float, best: float, luck: float) -> int:
    """Draw from the whole row: first the column, then the token in it.

    The order of the tokens along the line of luck is free, as long as it is always the same.
    """
    weights = np.exp((logits - np.float32(best)) / np.float32(temperature))
    columns = weights.size // _ROWS
    table = weights[: columns * _ROWS].reshape(_ROWS, columns)
    rest = weights[columns * _ROWS :]
    cumulated = np.append(table.sum(axis=0), rest.sum()).cumsum(dtype=np.float64)
    column = _at(cumulated, luck)
    before = cumulated[column - 1] if column else 0.0
    inside = (rest if column == columns else table[:, column]).cumsum(dtype=np.float64)
    row = min(
        int(inside.searchsorted(luck * cumulated[-1] - before, side="right")), inside.size - 1
    )
    return int(columns * _ROWS + row if column == columns else row * columns + column)


def _at(cumulated: NDArray[np.float64], luck: float) -> int:
    index = int(cumulated.searchsorted(luck * cumulated[-1], side="right"))
    return min(index, cumulated.size - 1)


def trace(logits: Logits) -> LogitsTrace:
    """The fingerprint of a row."""
    where = np.linspace(0, logits.size - 1, _TRACE_VALUES).astype(np.intp)
    return LogitsTrace(
        digest=hashlib.blake2b(logits.tobytes(), digest_size=8).hexdigest(),
        sample=tuple(float(value) for value in logits[where]),
    )
