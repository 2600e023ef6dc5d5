"""What it takes to open weights, and to give them back: by rung, form and share of the layers."""

from repertory.domain.events import Measured
from repertory.domain.ladder import Rung
from repertory.domain.readings import LoadReading, MemoryReading
from repertory.perf.bytes import weights_footprint
from repertory.perf.needs import size_text
from repertory.profiler.stand import Stand
from repertory.profiler.subjects import Place, Subject, repeated

__all__ = ["read_load", "unloaded_s"]

_LEFT_BYTES = 8 << 20
_LEFT_SHARE = 0.05
"""What may seem to be left after an unload: other threads of the worker breathe."""
_LOOKS = 20


async def read_load(
    stand: Stand, subject: Subject, place: Place, source: Rung
) -> tuple[LoadReading | MemoryReading, ...]:
    """Load and unload, again and again; from `DISK`, out of main memory each time before.

    Empty where the system keeps the file in main memory: then there is no reading from `DISK`.
    """
    await stand.clear()
    first = await _first(stand, subject, place)
    free_bytes = await stand.held_bytes()
    unloads: list[float] = []
    loaded: list[Measured] = []

    async def once() -> float:
        if source is Rung.DISK:
            await stand.drop(subject)
        measured = await stand.load(subject, place.placement)
        loaded.append(measured)
        unloads.append(await unloaded_s(stand, subject, free_bytes))
        return measured.took_ns / 1e9

    seconds = await repeated(once)
    if any(one.source is not None and one.source is not source for one in loaded):
        stand.notes.append(
            "the file stays in the page cache (another process has it open, or this file system "
            "does not let go of it), so no load from disk was read"
            if source is Rung.DISK
            else "the file does not stay in the page cache, so no load from main memory was read"
        )
        return ()
    spec = subject.spec
    reading = LoadReading(
        form=place.form,
        source=source,
        layers=place.layers,
        share=place.share,
        weights_bytes=spec.weights_bytes,
        seconds=seconds,
        unload_s=tuple(unloads),
        first_s=first,
    )
    return (reading, *(_memory(subject, place, loaded[-1]) if source is Rung.HOST else ()))


async def _first(stand: Stand, subject: Subject, place: Place) -> float | None:
    """One that does not count: it reads the vocabulary, and the file where it is not in memory."""
    is_new = stand.loads_of(subject) == 0
    measured = await stand.load(subject, place.placement)
    await stand.unload(subject)
    return measured.took_ns / 1e9 if is_new and measured.source is Rung.HOST else None


async def unloaded_s(stand: Stand, subject: Subject, free_bytes: int) -> float:
    """Until the worker's memory was read to be free again."""
    took_s = (await stand.unload(subject)).took_ns / 1e9
    allowed = free_bytes + max(_LEFT_BYTES, round(_LEFT_SHARE * subject.spec.weights_bytes))
    began_s = stand.now_s
    for looked in range(_LOOKS):
        left_bytes = await stand.held_bytes()
        if left_bytes <= allowed:
            return took_s + (stand.now_s - began_s if looked else 0.0)
    stand.notes.append(f"{size_text(left_bytes - free_bytes)} were not free after an unload")
    return took_s + stand.now_s - began_s


def _memory(subject: Subject, place: Place, measured: Measured) -> tuple[MemoryReading, ...]:
    if measured.weights_bytes is None:
        return ()
    foot = weights_footprint(subject.spec, place.form, place.layers)
    reading = MemoryReading(
        rung=Rung.DEVICE,
        form=place.form,
        layers=place.layers,
        sequences=0,
        cells=0,
        predicted_bytes=foot.weights_bytes,
        measured_bytes=measured.weights_bytes,
    )
    return (reading,)
