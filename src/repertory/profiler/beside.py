"""What moves and steps do to each other when they happen at once."""

import asyncio

from repertory.domain.readings import ContentionReading, Crowd
from repertory.domain.specs import KvShape
from repertory.profiler.stand import Stand
from repertory.profiler.steps import DECODE_STEPS
from repertory.profiler.subjects import Place, Subject, prompt_of, repeated

__all__ = ["read_load_beside_steps", "read_two_loads"]

_KV = KvShape(1, 256)
_WATCHED_STEPS = 2 * DECODE_STEPS


async def read_two_loads(
    stand: Stand, subject: Subject, place: Place, other: Subject
) -> tuple[ContentionReading, ...]:
    """A load, alone and asked for while another model's load is under way: until it is done."""
    await stand.clear()
    for one in (subject, other):
        await stand.load(one, Place(place.device).placement)
    await stand.clear()

    async def alone() -> float:
        began_s = stand.now_s
        await stand.load(subject, place.placement)
        took_s = stand.now_s - began_s
        await stand.unload(subject)
        return took_s

    async def together() -> float:
        loop = asyncio.get_running_loop()
        first = loop.create_task(stand.load(other, Place(place.device).placement))
        await asyncio.sleep(0)  # so that it is asked for first
        began_s = stand.now_s
        try:
            await stand.load(subject, place.placement)
            took_s = stand.now_s - began_s
        finally:
            await first
        await stand.clear()
        return took_s

    what = f"load, during a load of {other.spec.name}"
    return (ContentionReading(what, await repeated(alone), await repeated(together), Crowd.LOAD),)


async def read_load_beside_steps(
    stand: Stand, subject: Subject, place: Place, other: Subject
) -> tuple[ContentionReading, ...]:
    """Loads of this model while another decodes: what both of them feel."""
    await stand.clear()
    await stand.load(subject, place.placement)
    await stand.unload(subject)
    loads_alone = await repeated(lambda: _load(stand, subject, place))
    await stand.serve(other, Place(place.device).placement, _KV)
    steps_alone = await repeated(lambda: _steps(stand, other))
    loads: list[float] = []

    async def together() -> float:
        step = asyncio.get_running_loop().create_task(_steps(stand, other))
        try:
            while not step.done():
                loads.append(await _load(stand, subject, place))
        finally:
            await step
        return step.result()

    steps = await repeated(together)
    name = other.spec.name
    return (
        ContentionReading(f"load, while {name} decodes", loads_alone, tuple(loads), Crowd.STEPS),
        ContentionReading(f"decode step of {name}, during loads", steps_alone, steps),
    )


async def _load(stand: Stand, subject: Subject, place: Place) -> float:
    measured = await stand.load(subject, place.placement)
    await stand.unload(subject)
    return measured.took_ns / 1e9


async def _steps(stand: Stand, subject: Subject) -> float:
    """Seconds of a step, over many of them."""
    prompt = prompt_of(subject, 32, "beside")
    heard = await stand.end(await stand.ask(subject, prompt, 1 + _WATCHED_STEPS))
    return heard.decode_ns / 1e9 / _WATCHED_STEPS
