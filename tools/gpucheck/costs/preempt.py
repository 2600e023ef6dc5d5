"""A generation interrupted for another model, its own model gone and back: Yildiz 2026, §1.4."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gpucheck.costs.found import Cycle
from gpucheck.costs.up import Down, Place, Up
from gpucheck.measure import (
    TOLERANCE_BYTES,
    Taken,
    checked,
    prefill,
    some_tokens,
    spec_of,
    timed,
)
from gpucheck.shapes import Shape
from repertory.domain.errors import OutOfMemory
from repertory.domain.specs import ModelSpec
from repertory.engines.llamacpp.context import Logits
from repertory.engines.llamacpp.library import Accelerator
from repertory.engines.llamacpp.weights import read_into_host

__all__ = ["Party", "measure_preemption"]

_SPARE_CELLS = 64
_CLAIMANT_CELLS, _CLAIMANT_PROMPT, _CLAIMANT_TOKENS = 512, 64, 8
"""Its own work is no part of the overhead, so it is short."""
_STAYS_AT = (0, 4, 8)
"""Of the nine points: first, middle, last.  Where nothing moves there is little to see."""


@dataclass(frozen=True, slots=True)
class Party:
    """One of the two models."""

    name: str
    path: Path
    shape: Shape


def measure_preemption(victim: Party, claimant: Party, accelerator: Accelerator | None) -> Taken:
    """At each point: KV out, the victim down, the claimant up, some tokens, and down, the victim
    up, KV back, the next token; at some also with the victim left where it is.

    Both files are in the page cache, as in the paper.  A first round of each loads what is loaded
    once: kernels, and a vocabulary that rests.
    """
    for party in (victim, claimant):
        read_into_host(party.path)
    round_trip = _RoundTrip(victim, claimant, Place(accelerator))
    round_trip.warm_up()
    return round_trip.measure()


class _RoundTrip:
    def __init__(self, victim: Party, claimant: Party, place: Place) -> None:
        self._victim, self._claimant, self._place = victim, claimant, place
        self._specs = {party.name: spec_of(party.path) for party in (victim, claimant)}
        self._taken = Taken()
        self._cells = max(victim.shape.points) + _SPARE_CELLS
        self._free_at_bytes = 0

    @property
    def _spec(self) -> ModelSpec:
        return self._specs[self._victim.name]

    def warm_up(self) -> None:
        for party in (self._victim, self._claimant):
            up = self._place.up(self._specs[party.name], self._cells)
            prefill(up.context, some_tokens(_CLAIMANT_PROMPT, up.vocabulary_tokens))
            up.context.decode([0], [0], [_CLAIMANT_PROMPT])
            self._place.down(up, self._place.taken_bytes())
        self._free_at_bytes = self._place.taken_bytes()

    def measure(self) -> Taken:
        up = self._place.up(self._spec, self._cells)
        self._taken.note("load", up.load_s, up.held.weights_bytes)
        points = self._victim.shape.points
        tokens = some_tokens(points[-1] + 1, up.vocabulary_tokens)
        for number, point in enumerate(points):
            known = up.context.tokens_in(0)
            prefill(up.context, tokens[known:point], known)
            up = self._cycle(up, point, tokens[point])
            if number in _STAYS_AT:
                self._beside(up, point, tokens[point])
        self._place.down(up, self._free_at_bytes)
        return self._taken

    def _cycle(self, up: Up, point: int, token: int) -> Up:
        """The worst case: all of the victim leaves."""
        step_s, expected = _next(up, point, token)
        out_s, saved = timed(partial(up.context.save, 0))
        # On a CPU, what was saved lies where the weights were.
        free_at_bytes = self._free_at_bytes + (saved.bytes if self._place.is_cpu else 0)
        down = self._place.down(up, free_at_bytes)
        claimant = self._serve_claimant(free_at_bytes)
        up = self._place.up(self._spec, self._cells)
        in_s, _ = timed(partial(up.context.restore, 0, saved))
        first_token_s, row = _next(up, point, token)
        self._taken.cycles.append(
            Cycle(
                claimant=self._claimant.name,
                point_tokens=point,
                stays=False,
                kv_bytes=saved.bytes,
                step_s=step_s,
                out_s=out_s,
                close_s=down.close_s,
                unload_s=down.unload_s,
                kept_bytes=down.kept_bytes,
                tolerance_bytes=TOLERANCE_BYTES,
                claimant_up_s=claimant.up_s,
                claimant_run_s=claimant.run_s,
                claimant_down_s=claimant.down_s,
                load_s=up.load_s,
                context_s=up.context_s,
                in_s=in_s,
                first_token_s=first_token_s,
                logits_apart_share=_apart_share(row, expected),
            )
        )
        return up

    def _beside(self, up: Up, point: int, token: int) -> None:
        """The victim stays; the claimant needs room beside it."""
        step_s, expected = _next(up, point, token)
        try:
            claimant = self._serve_claimant(self._place.taken_bytes())
        except OutOfMemory as error:
            self._taken.notes.append(f"no room beside {self._victim.name}: {error}")
            return
        first_token_s, row = _next(up, point, token)
        self._taken.cycles.append(
            Cycle(
                claimant=self._claimant.name,
                point_tokens=point,
                stays=True,
                kv_bytes=up.context.saved_bytes(0),
                step_s=step_s,
                out_s=0.0,
                close_s=0.0,
                unload_s=0.0,
                kept_bytes=0,
                tolerance_bytes=TOLERANCE_BYTES,
                claimant_up_s=claimant.up_s,
                claimant_run_s=claimant.run_s,
                claimant_down_s=claimant.down_s,
                load_s=0.0,
                context_s=0.0,
                in_s=0.0,
                first_token_s=first_token_s,
                logits_apart_share=_apart_share(row, expected),
            )
        )

    def _serve_claimant(self, free_at_bytes: int) -> "_Served":
        up = self._place.up(self._specs[self._claimant.name], _CLAIMANT_CELLS)
        run_s, _ = timed(lambda: _run(up))
        down: Down = self._place.down(up, free_at_bytes)
        return _Served(up.load_s + up.context_s, run_s, down.close_s + down.unload_s)


@dataclass(frozen=True, slots=True)
class _Served:
    """What the claimant took."""

    up_s: float
    run_s: float
    down_s: float


def _run(up: Up) -> None:
    prefill(up.context, some_tokens(_CLAIMANT_PROMPT, up.vocabulary_tokens))
    for number in range(_CLAIMANT_TOKENS):
        checked(up.context.decode([0], [number], [_CLAIMANT_PROMPT + number]))


def _next(up: Up, point: int, token: int) -> tuple[float, Logits]:
    """The step after the point, and its logits; the point is as it was afterwards."""
    seconds, rows = timed(lambda: up.context.decode([0], [token], [point]))
    row = checked(rows)[0].copy()
    up.context.forget(0, point)
    return seconds, row


def _apart_share(row: Logits, expected: Logits) -> float:
    return float(np.abs(row - expected).max() / np.abs(expected).max())
