"""The whole of a preemption, with a timer on each of its parts (Yildiz, Table II).

A generation is stopped somewhere in its middle; its KV goes out and its weights go away; another
model comes up, serves a little and leaves; then all of it backwards, to the next token.
"""

from dataclasses import dataclass, field

from repertory.domain.events import Measured
from repertory.domain.readings import CycleReading
from repertory.domain.specs import KvShape
from repertory.perf.bytes import MIN_CELLS, shape_for
from repertory.profiler.loads import unloaded_s
from repertory.profiler.stand import Stand, saved_by
from repertory.profiler.subjects import KNOWN, Place, Subject, prompt_of, repeated

__all__ = ["LEFT_TOKENS", "read_cycle"]

_MADE_TOKENS = 8
"""Of the victim, before it is stopped."""
LEFT_TOKENS = 64
"""That it has still to make by then."""


@dataclass(slots=True)
class _Timers:
    stop: list[float] = field(default_factory=list)
    out: list[float] = field(default_factory=list)
    unload: list[float] = field(default_factory=list)
    switch: list[float] = field(default_factory=list)
    release: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Cycle:
    """Who is stopped where, and for whom."""

    stand: Stand
    victim: Subject
    place: Place
    claimant: Subject
    point_tokens: int
    stays: bool

    @property
    def victim_kv(self) -> KvShape:
        return shape_for(self.victim.spec, 1, self.point_tokens + LEFT_TOKENS)

    @property
    def claimant_place(self) -> Place:
        return Place(self.place.device)


async def read_cycle(
    stand: Stand,
    victim: Subject,
    place: Place,
    claimant: Subject,
    point: tuple[int, bool],
) -> tuple[CycleReading, ...]:
    """At a point (tokens of KV, and whether the victim's weights stay)."""
    tokens, stays = point
    cycle = _Cycle(stand, victim, place, claimant, tokens, stays)
    timers = _Timers()
    reused = 0

    async def once() -> float:
        nonlocal reused
        reused = await _run(cycle, timers)
        parts = (timers.stop, timers.unload, timers.switch, timers.release, timers.load)
        return sum(part[-1] for part in parts) + timers.out[-1] + timers.first[-1]

    await _warm_up(cycle)
    await repeated(once)
    return (
        CycleReading(
            claimant=claimant.spec.name,
            claimant_bytes=claimant.spec.weights_bytes,
            point_tokens=tokens,
            stays=stays,
            stop_s=tuple(timers.stop),
            out_s=tuple(timers.out),
            unload_s=tuple(timers.unload),
            switch_s=tuple(timers.switch),
            release_s=tuple(timers.release),
            load_s=tuple(timers.load),
            in_s=tuple(timers.back),
            first_token_s=tuple(timers.first),
            reused_tokens=reused,
        ),
    )


async def _warm_up(cycle: _Cycle) -> None:
    """What a worker does once for each model is no part of a switch."""
    stand, claimant = cycle.stand, cycle.claimant
    if stand.opens_of(claimant) == 0:
        await stand.clear()
        await stand.load(claimant, cycle.claimant_place.placement)
        await stand.open(claimant, _claimant_kv(claimant))
        await stand.down(claimant)


def _claimant_kv(claimant: Subject) -> KvShape:
    return shape_for(claimant.spec, 1, MIN_CELLS)


async def _run(cycle: _Cycle, timers: _Timers) -> int:
    """One cycle; how many tokens the victim did not compute again."""
    stand, victim = cycle.stand, cycle.victim
    prompt = prompt_of(victim, cycle.point_tokens - _MADE_TOKENS, KNOWN)
    tokens = _MADE_TOKENS + LEFT_TOKENS
    await stand.serve(victim, cycle.place.placement, cycle.victim_kv)
    running = await stand.ask(victim, prompt, tokens)
    await stand.reach(running, _MADE_TOKENS)
    began_s = stand.now_s
    stopped = await stand.stop(running)
    timers.stop.append(stand.now_s - began_s)
    await _leave(cycle, timers)
    await _claim(cycle, timers)
    came = 0.0
    if not cycle.stays:
        came += _s(await stand.load(victim, cycle.place.placement))
    came += _s(await stand.open(victim, cycle.victim_kv))
    timers.load.append(came)
    emitted = tuple(stopped.tokens[: tokens - 1])
    again = await stand.ask(victim, prompt, tokens, emitted)
    heard = await stand.first(again)
    assert heard.first_at_s is not None
    timers.first.append(heard.first_at_s - again.asked_at_s)
    timers.back.append(heard.restored_ns / 1e9)
    await stand.stop(again)
    return heard.reused_tokens


async def _leave(cycle: _Cycle, timers: _Timers) -> None:
    """The victim makes room."""
    stand, victim = cycle.stand, cycle.victim
    taken = await stand.held_bytes()
    closed = await stand.close(victim)
    out_s = saved_by(closed)[1] / 1e9
    left_s = _s(closed) - out_s
    if not cycle.stays:
        free_bytes = taken - (closed.weights_bytes or 0)
        left_s += await unloaded_s(stand, victim, free_bytes)
    timers.out.append(out_s)
    timers.unload.append(left_s)


async def _claim(cycle: _Cycle, timers: _Timers) -> None:
    """The claimant comes up, serves, and leaves; what it computes is its own."""
    stand, claimant = cycle.stand, cycle.claimant
    up = _s(await stand.load(claimant, cycle.claimant_place.placement))
    up += _s(await stand.open(claimant, _claimant_kv(claimant)))
    timers.switch.append(up)
    await stand.end(await stand.ask(claimant, prompt_of(claimant, 16, "claim"), 4))
    down = _s(await stand.close(claimant))
    down += _s(await stand.unload(claimant))
    timers.release.append(down)


def _s(measured: Measured) -> float:
    return measured.took_ns / 1e9
