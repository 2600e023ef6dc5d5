"""A worker of our own to be measured, beside a server that may go on serving."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from repertory.domain.errors import ConfigError, RepertoryError, WorkerGone
from repertory.domain.specs import NodeSpec
from repertory.engines.gguf.files import stamp_files
from repertory.engines.gguf.header import read_header
from repertory.engines.llamacpp.client import LlamaCppEngine
from repertory.fleet.child import Child
from repertory.fleet.identity import hold_state
from repertory.fleet.local import LocalFleet, Loss
from repertory.live.catalogue import Offer
from repertory.live.command import worker_command
from repertory.live.compose import GROWTH_BYTES
from repertory.live.memory import process_bytes
from repertory.live.options import ServeConfig
from repertory.perf.bytes import MIN_CELLS
from repertory.perf.needs import need_of, size_text
from repertory.profiler.campaign import CoreTime
from repertory.profiler.plan import Points
from repertory.profiler.stand import Stand, opened
from repertory.profiler.subjects import Subject

__all__ = ["open_stand", "profiler_config", "subject_of", "worker_core_time"]

_SAVED_PARTS = 4
"""No more than this part of the memory is for KV that is copied out."""
_TOLD_S = 5.0
_HEADS = ("output.weight", "token_embd.weight")
"""The output head's tensor; where it is tied to the embeddings, those are sent there too."""


def subject_of(offer: Offer) -> Subject:
    """A model on offer, with what its file's head says besides."""
    path = Path(offer.spec.location)
    headers = [read_header(path.with_name(stamp.name)) for stamp in stamp_files(path)]
    sizes = {one.name: one.size_bytes for header in headers for one in header.tensors}
    head_bytes = next((sizes[name] for name in _HEADS if name in sizes), 0)
    spec = replace(offer.spec, head_bytes=offer.spec.head_bytes or head_bytes)
    return Subject(spec, offer.tokens, not offer.only_embeds)


def profiler_config(
    config: ServeConfig, subjects: Sequence[Subject], points: Points
) -> ServeConfig:
    """A folder of its own, and room for the KV that will be copied out and back."""
    longest = max((*points.kv_tokens, *points.interruptions))
    tokens = {
        one.spec.name: min(longest + 64, one.spec.context_tokens) * one.spec.kv_bytes_per_token
        for one in subjects
    }
    wanted = 2 * max(tokens.values(), default=0) + (1 << 20)
    return replace(
        config,
        state_dir=config.state_dir / "profiler",
        host_memory_bytes=min(wanted, config.memory_bytes // _SAVED_PARTS),
        saved_kv_disk_bytes=0,
    )


def worker_core_time() -> CoreTime:
    """Of the threads of this process's children, by the kernel's own account of its run queues."""
    ran_ns = waited_ns = 0
    for child in psutil.Process().children(recursive=True):
        for path in Path(f"/proc/{child.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError):  # the thread ended; another system
                ran, waited, _ = path.read_text().split()
                ran_ns, waited_ns = ran_ns + int(ran), waited_ns + int(waited)
    return CoreTime(ran_ns / 1e9, waited_ns / 1e9)


@contextlib.asynccontextmanager
async def open_stand(config: ServeConfig, subjects: Sequence[Subject]) -> AsyncIterator[Stand]:
    """A worker process, up and listened to; `ConfigError` if a subject cannot fit at all."""
    _refuse_second(config.state_dir)
    async with LocalFleet(config.state_dir) as fleet:
        loop = asyncio.get_running_loop()
        up: asyncio.Future[Child] = loop.create_future()
        lost: asyncio.Future[str] = loop.create_future()

        def on_lost(loss: Loss) -> None:
            if not lost.done():
                lost.set_result(loss.reason.partition("; starts again")[0])
            if not up.done():
                up.set_exception(WorkerGone("the worker did not start"))

        def on_up(child: Child) -> None:
            if not up.done():
                up.set_result(child)

        worker = fleet.keep(worker_command(config), on_up=on_up, on_lost=on_lost)
        refusal: RepertoryError | None = None
        try:
            child = await up
            engine = LlamaCppEngine(child.reader, child.writer)
            room = await _room(config, engine)
            _refuse_too_large(subjects, room)
            async with opened(engine, room.node, room.rooms) as stand:
                yield stand
        except WorkerGone as gone:
            refusal = WorkerGone(await _reason(lost, gone))
        except RepertoryError as wrong:
            refusal = wrong
        finally:
            await worker.stop()
    if refusal is not None:  # only now: the fleet's task group would wrap it
        raise refusal


async def _reason(lost: asyncio.Future[str], gone: WorkerGone) -> str:
    """How it ended: the fleet hears of that a little later than its socket closes."""
    await asyncio.wait({lost}, timeout=_TOLD_S)
    return f"the worker: {lost.result()}" if lost.done() else str(gone)


def _refuse_second(folder: Path) -> None:
    try:
        with hold_state(folder):
            pass
    except ConfigError as busy:
        if folder.exists() and "works on" in str(busy):
            raise ConfigError(
                f"{folder}: another `repertory profile` is at work; let it end, or give this one "
                "another --state-dir"
            ) from None
        raise


@dataclass(frozen=True, slots=True)
class _Room:
    """What models may take, by device, and where the number comes from."""

    node: NodeSpec
    rooms: dict[str, int]
    story: str


async def _room(config: ServeConfig, engine: LlamaCppEngine) -> _Room:
    """Devices in main memory are measured one at a time: each may have all of it."""
    node = await engine.probe()
    own = await asyncio.to_thread(process_bytes)
    overhead = own + (await engine.stats()).overhead_bytes + GROWTH_BYTES
    left = config.memory_bytes - overhead - config.saved_kv_bytes
    named = {one.id: one.memory_bytes for one in config.devices or () if one.memory_bytes}
    rooms = {
        one.id: max(0, min(left, named.get(one.id, left))) if one.cores else one.memory_bytes
        for one in node.devices
    }
    story = (
        f"{size_text(config.memory_bytes)} - {size_text(overhead)} for this program and its worker "
        f"- {size_text(config.saved_kv_bytes)} for copies of KV"
    )
    return _Room(node, rooms, story)


def _refuse_too_large(subjects: Sequence[Subject], room: _Room) -> None:
    most = max(room.rooms.values(), default=0)
    needs = [need_of(one.spec, MIN_CELLS) for one in subjects]
    lines = [need.text() for need in needs if need.total_bytes > most]
    if lines:
        raise ConfigError(
            "cannot be measured in this memory:\n  "
            + "\n  ".join(lines)
            + f"\n  models have {size_text(most)} = {room.story}; give more --memory"
        )
