"""What KV memory costs: making it, growing it, and copying a sequence's out and back."""

from repertory.domain.events import Measured
from repertory.domain.ladder import Rung
from repertory.domain.readings import KvReading, MemoryReading, OpenReading
from repertory.domain.specs import KvShape
from repertory.perf.bytes import kv_bytes, shape_for, weights_footprint
from repertory.profiler.stand import Stand, saved_by
from repertory.profiler.subjects import KNOWN, Place, Subject, prompt_of, repeated

__all__ = ["read_kv", "read_open", "read_resize"]

_WHOLE = 0.9
"""Where a part was computed again, what came back is not this sequence."""


async def read_open(
    stand: Stand, subject: Subject, place: Place, kv: KvShape
) -> tuple[OpenReading | MemoryReading, ...]:
    """Activate and deactivate, with nothing in it."""
    await stand.hold(subject, place.placement)
    await stand.idle(subject)
    is_new = stand.opens_of(subject) == 0
    first = await stand.open(subject, kv)
    await stand.close(subject)
    opened: list[Measured] = []
    closes: list[float] = []

    async def once() -> float:
        measured = await stand.open(subject, kv)
        opened.append(measured)
        closes.append((await stand.close(subject)).took_ns / 1e9)
        return measured.took_ns / 1e9

    seconds = await repeated(once)
    reading = OpenReading(
        sequences=kv.sequences,
        cells=kv.cells,
        kv_bytes=kv_bytes(subject.spec, kv),
        seconds=seconds,
        close_s=tuple(closes),
        first_s=first.took_ns / 1e9 if is_new else None,
    )
    return (reading, *_memory(stand, subject, place, kv, opened[-1]))


async def read_resize(
    stand: Stand, subject: Subject, place: Place, small: KvShape, large: KvShape
) -> tuple[OpenReading, ...]:
    """Grow a context whose first slot is full."""
    tokens = small.cells - 1

    async def once() -> float:
        await stand.serve(subject, place.placement, small)
        await stand.end(await stand.ask(subject, prompt_of(subject, tokens, KNOWN), 1))
        return (await stand.resize(subject, large)).took_ns / 1e9

    seconds = await repeated(once)
    return (
        OpenReading(
            sequences=large.sequences,
            cells=large.cells,
            kv_bytes=kv_bytes(subject.spec, large),
            seconds=seconds,
            moved_tokens=tokens,
        ),
    )


async def read_kv(
    stand: Stand, subject: Subject, place: Place, tokens: int
) -> tuple[KvReading, ...]:
    """A prompt's cells to main memory, as its context is freed, and back for the same prompt."""
    kv = shape_for(subject.spec, 1, tokens + 2)
    prompt = prompt_of(subject, tokens, KNOWN)
    out: list[float] = []
    back: list[float] = []
    sizes: list[int] = []

    async def once() -> float:
        await stand.serve(subject, place.placement, kv)
        before = await stand.end(await stand.ask(subject, prompt, 1))
        size, took_ns = saved_by(await stand.close(subject))
        if before.restored_ns and before.restored_bytes >= _WHOLE * size:
            back.append(before.restored_ns / 1e9)
        if took_ns:
            sizes.append(size)
            out.append(took_ns / 1e9)
        return took_ns / 1e9

    await once()  # computes what was not there, and puts it aside
    back.clear()
    out.clear()
    await repeated(once)
    if not out or not back:
        stand.notes.append("the engine does not say what copying KV out and back takes")
        return ()
    return (KvReading(tokens, sizes[-1], place.layers, tuple(out), tuple(back)),)


def _memory(
    stand: Stand, subject: Subject, place: Place, kv: KvShape, measured: Measured
) -> tuple[MemoryReading, ...]:
    parts = (stand.weights_of(subject), measured.kv_bytes, measured.buffers_bytes)
    if not all(parts):
        return ()
    foot = weights_footprint(subject.spec, place.form, place.layers)
    resting = foot.resting_bytes + kv_bytes(subject.spec, kv)
    reading = MemoryReading(
        rung=Rung.SERVING,
        form=place.form,
        layers=place.layers,
        sequences=kv.sequences,
        cells=kv.cells,
        predicted_bytes=resting,
        measured_bytes=sum(one or 0 for one in parts),
    )
    return (reading,)
