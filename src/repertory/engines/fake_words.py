"""What the fake engine says: a function of the generation's spec alone.

A token is a byte.  At each place one letter, by hash, is the likeliest; those that follow it in the
alphabet come after it, and the rest of the bytes hardly ever: where bias and grammar leave the
likeliest, it is drawn, whatever the temperature.
"""

import hashlib
import math
from codecs import getincrementaldecoder
from dataclasses import dataclass

import numpy as np

from repertory.domain.requests import FinishReason
from repertory.engines.contract import (
    GenerationSpec,
    LogitsTrace,
    Ranked,
    TokenLogprob,
    TokenStep,
)
from repertory.engines.grammar.automaton import Automaton, Grammar, TokenTree
from repertory.engines.grammar.gbnf import compile_gbnf
from repertory.engines.pooling import unit

__all__ = ["Planned", "embedding_of", "grammar_of", "planned_of", "words_of"]

_TREE = TokenTree([bytes([byte]) for byte in range(256)])
_BEST, _STEP, _HARDLY = 5.0, 0.2, -20.0
"""Logits of the likeliest letter, what each next one is below it, and those of no letters."""
_EMBEDDING_SIZE = 8


@dataclass(frozen=True, slots=True)
class Planned:
    """A generation and all that it will say: a function of its spec alone."""

    spec: GenerationSpec
    tokens: tuple[int, ...] | None
    """None: the likeliest at each place, up to `max_tokens`."""
    finish: FinishReason


def words_of(planned: Planned, positions: range) -> TokenStep:
    spec = planned.spec
    if planned.tokens is None:
        tokens = tuple(_letter(spec, at) for at in positions)
    else:
        tokens = planned.tokens[positions.start : positions.stop]
        positions = range(positions.start, positions.start + len(tokens))
    traces = tuple(_trace(spec, at) for at in positions) if spec.trace_logits else ()
    logprobs: tuple[TokenLogprob, ...] = ()
    if spec.logprobs is not None:
        drawn = zip(positions, tokens, strict=True)
        logprobs = tuple(_logprob(spec, at, token) for at, token in drawn)
    text = bytes(tokens).decode("ascii") if planned.tokens is None else _text(planned, positions)
    return TokenStep(spec.id, tokens, text, traces=traces, logprobs=logprobs)


def _text(planned: Planned, positions: range) -> str:
    """What these tokens complete of the text: a character may be several of them."""
    tokens = bytes(planned.tokens or ())
    is_last = positions.stop >= len(tokens)
    decode = getincrementaldecoder("utf-8")
    before = decode("replace").decode(tokens[: positions.start])
    return decode("replace").decode(tokens[: positions.stop], is_last)[len(before) :]


def planned_of(spec: GenerationSpec) -> Planned:
    if spec.wants_embedding:
        return Planned(spec, (), FinishReason.STOP)
    if not spec.sampling.grammar and not spec.sampling.logit_bias:
        return Planned(spec, None, FinishReason.LENGTH)
    automaton = Automaton(grammar_of(spec.sampling.grammar)) if spec.sampling.grammar else None
    tokens: list[int] = []
    for at in range(spec.max_tokens):
        logits = _logits(spec, at)
        for token, bias in spec.sampling.logit_bias:
            logits[token] += bias
        if automaton is not None:
            logits = np.where(automaton.allowed(), logits, -np.inf)
        token = int(logits.argmax())
        if not math.isfinite(logits[token]):
            return Planned(spec, tuple(tokens), FinishReason.STOP)
        tokens.append(token)
        if automaton is not None:
            automaton.accept(token)
            if automaton.is_complete:
                return Planned(spec, tuple(tokens), FinishReason.STOP)
    return Planned(spec, tuple(tokens), FinishReason.LENGTH)


def grammar_of(gbnf: str) -> Grammar:
    return Grammar(gbnf, compile_gbnf(gbnf), _TREE, np.empty(0, np.intp))


def _logits(spec: GenerationSpec, at: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    row = np.full(256, _HARDLY)
    row[97:123] = _BEST - _STEP * ((np.arange(26) - (_letter(spec, at) - 97)) % 26)
    return row


def _logprob(spec: GenerationSpec, at: int, token: int) -> TokenLogprob:
    row = _logits(spec, at)
    row -= math.log(float(np.exp(row).sum()))
    order = (-row).argsort(kind="stable")[: spec.logprobs]
    ranked = [Ranked(one, bytes([one]), float(row[one])) for one in (token, *order.tolist())]
    return TokenLogprob(ranked[0], tuple(ranked[1:]))


def embedding_of(spec: GenerationSpec) -> tuple[float, ...]:
    """By the prompt alone."""
    digest = hashlib.blake2b(repr(spec.prompt).encode(), digest_size=_EMBEDDING_SIZE).digest()
    return unit(np.frombuffer(digest, np.uint8) / 255.0 + 0.5) or ()


def _hash(spec: GenerationSpec, at: int) -> bytes:
    """What token `at` depends on: the prompt, the seed and the position, nothing else."""
    text = repr((spec.prompt, spec.sampling.seed, spec.sampling.temperature, at))
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _letter(spec: GenerationSpec, at: int) -> int:
    return 97 + _hash(spec, at)[0] % 26


def _trace(spec: GenerationSpec, at: int) -> LogitsTrace:
    digest = _hash(spec, at)
    return LogitsTrace(digest.hex(), tuple(byte / 255 for byte in digest * 4))
