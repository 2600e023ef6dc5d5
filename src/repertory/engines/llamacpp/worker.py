"""The worker process: many models on the devices of one node.

`python -m repertory.engines.llamacpp.worker --socket FD|PATH [...]`.  Threads: *io* (this file's
event loop: frames and the heartbeat), *step* (one per device), *mover*, one for vocabularies, and
one that waits for trials of them.
It ends when its socket does, or its parent.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from repertory.domain.errors import EngineError
from repertory.domain.ladder import TRANSITIONS
from repertory.domain.specs import Capabilities, DeviceSpec, ModelSpec, NodeSpec
from repertory.engines.contract import Frame, GenerationSpec, WorkerStats
from repertory.engines.llamacpp import library
from repertory.engines.llamacpp.cells.disk import DiskKv
from repertory.engines.llamacpp.cells.saved import SavedKv
from repertory.engines.llamacpp.context import ContextOptions
from repertory.engines.llamacpp.device import Device
from repertory.engines.llamacpp.futures import done, then
from repertory.engines.llamacpp.inbox import Inbox
from repertory.engines.llamacpp.library import Accelerator, Model
from repertory.engines.llamacpp.mover import Mover
from repertory.engines.llamacpp.outbox import Outbox
from repertory.engines.llamacpp.steps import Cores, StepLoop
from repertory.engines.llamacpp.trial import Trials, die_with_parent
from repertory.engines.llamacpp.vocabulary import Unproven, Vocabularies
from repertory.engines.llamacpp.weights import Shelf, process_bytes, release_at_once
from repertory.engines.wire import (
    SIGNATURES,
    Beat,
    Call,
    FromWorker,
    Output,
    Reply,
    encode,
    failure_of,
)

__all__ = ["ConfiguredDevice", "Worker", "main"]

_log = logging.getLogger(__name__)
_BEAT_S = 0.25
_SWITCH_INTERVAL_S = 0.0005
"""A template that renders holds the interpreter lock; the step thread must not wait 5 ms for it."""


class ConfiguredDevice(msgspec.Struct, forbid_unknown_fields=True):
    """One entry of `--devices`: a CPU core set with its budget, or a budget for an accelerator."""

    id: str
    memory_bytes: int
    cores: list[int] | None = None
    """Ids of CPU cores; None: all that this process may use."""
    backend: str = "cpu"


class Worker:
    """Answers calls; everything slow happens on other threads."""

    def __init__(self, options: argparse.Namespace, send: Callable[[FromWorker], None]) -> None:
        release_at_once()
        library.start()
        self._send = send
        self._trials = Trials(None if options.state_dir is None else Path(options.state_dir))
        self._trial_beats = 0
        self._trial_thread = ThreadPoolExecutor(1, "trial")
        self._trying: dict[str, Future[None]] = {}
        """By digest: the trial of its words that is under way."""
        self._trying_lock = threading.Lock()
        self._vocabularies = Vocabularies(self._trials.has_words)
        self._vocabulary_thread = ThreadPoolExecutor(1, "vocabulary")
        self._reading: dict[str, Future[Any]] = {}
        """By generation whose grammar is being read: the last call about it."""
        self._at_work = threading.Event()
        self._devices = self._open_devices(options)
        shelf = partial(Shelf, self._on_opened, self._on_leaving)
        self._mover = Mover(
            self._devices, shelf, self._check_file, self._at_work, _saved_kv(options)
        )
        self._node = NodeSpec(
            id=options.node,
            devices=tuple(device.spec for device in self._devices.values()),
            host_memory_bytes=0,
            capabilities=_capabilities(
                options.exact, any(one.accelerator for one in self._devices.values())
            ),
        )

    @property
    def beat(self) -> Beat:
        if self._trials.is_running:
            self._trial_beats += 1  # a trial that hangs has a bound of its own, and a verdict
        steps = sum(device.loop.steps for device in self._devices.values())
        progress = steps + self._mover.moves + self._trial_beats
        return Beat(time.monotonic_ns(), progress)

    def start(self, call: Call) -> "Future[Any]":
        """Begin a call, in the order of arrival; its answer comes with the future."""
        if call.method not in SIGNATURES:
            raise EngineError(f"a worker knows no method {call.method}")
        arguments = msgspec.msgpack.decode(call.arguments, type=SIGNATURES[call.method].arguments)
        match call.method:
            case "probe":
                return done(self._node)
            case "describe" | "render" | "tokenize" | "detokenize" | "grammar":
                method = getattr(self._vocabularies, call.method)
                return self._on_words(partial(method, *arguments))
            case "stats":
                return self._vocabulary_thread.submit(self._stats)
            case "submit":
                return self._submit(*arguments)
            case "cancel":
                return self._in_turn(arguments[0], partial(self._mover.cancel, *arguments))
            case "preempt":
                return self._in_turn(arguments[0], partial(self._mover.preempt, *arguments))
            case "hold":
                return self._in_turn(arguments[0], partial(self._mover.hold, *arguments))
            case _:
                return self._mover.start(*arguments)

    def _on_words(self, ask: Callable[[], Any]) -> "Future[Any]":
        """On the vocabulary thread.  What nobody has proven is tried first, and asked again.

        Once per file and build that costs a child: 0.3 s of a core for 1k tokens, 0.5 s for 32k.
        """
        asked = self._vocabulary_thread.submit(ask)
        return then(asked, lambda: self._asked_again(asked, ask))

    def _asked_again(self, asked: "Future[Any]", ask: Callable[[], Any]) -> "Future[Any]":
        error = asked.exception()
        if not isinstance(error, Unproven):
            return asked
        tried = self._try_words(error.location, error.digest)
        return then(tried, lambda: tried if tried.exception() else self._on_words(ask))

    def _try_words(self, location: str, digest: str) -> "Future[None]":
        """On a thread of its own, so that others' words are read meanwhile; who asks for the same
        file waits for the same trial."""
        with self._trying_lock:
            trial = self._trying.get(digest)
            if trial is None:
                trial = self._trial_thread.submit(self._trials.prove_words, location, digest)
                self._trying[digest] = trial
                trial.add_done_callback(lambda _: self._trying.pop(digest, None))
        return trial

    def _submit(self, replica_id: str, spec: GenerationSpec) -> "Future[Any]":
        """A grammar, and saved cells that lie on the disk, are read beside the step thread, which
        must not wait for them.
        """
        fetched = self._mover.fetch(replica_id, spec)
        if fetched is None and not spec.sampling.grammar:
            return self._mover.submit(replica_id, spec)
        begin = partial(self._submit_read, replica_id, spec)
        taken = begin() if fetched is None else then(fetched, begin)
        self._is_last_of(spec.id, taken)
        return taken

    def _submit_read(self, replica_id: str, spec: GenerationSpec) -> "Future[Any]":
        if not spec.sampling.grammar:
            return self._mover.submit(replica_id, spec)
        read = self._on_words(
            partial(
                self._vocabularies.grammar_of,
                self._mover.location_of(replica_id),
                spec.sampling.grammar,
                shows_specials=spec.shows_specials,
                ignores_ends=spec.ignore_eos,
            )
        )
        return then(read, lambda: self._mover.submit(replica_id, spec, read.result()))

    def _in_turn(self, generation_id: str, begin: Callable[[], "Future[Any]"]) -> "Future[Any]":
        """After the calls before it, also where a submit waits for a grammar to be read."""
        before = self._reading.get(generation_id)
        if before is None:
            return begin()
        begun = then(before, begin)
        self._is_last_of(generation_id, begun)
        return begun

    def _is_last_of(self, generation_id: str, call: "Future[Any]") -> None:
        self._reading[generation_id] = call

        def forget(_: "Future[Any]") -> None:
            if self._reading.get(generation_id) is call:
                self._reading.pop(generation_id, None)

        call.add_done_callback(forget)

    def _open_devices(self, options: argparse.Namespace) -> dict[str, Device]:
        configured = msgspec.json.decode(options.devices, type=list[ConfiguredDevice])
        usable = _usable_cores()
        found = library.accelerators([one for one in options.rpc if _is_there(one)])
        budgets = {one.id: one.memory_bytes for one in configured if one.backend != "cpu"}
        opened: dict[str, Device] = {}
        for one in configured:
            if one.backend == "cpu":
                ids = None if one.cores is None else frozenset(one.cores)
                cores = Cores(len(usable) if ids is None else len(ids), ids)
                spec = DeviceSpec(one.id, one.memory_bytes, cores.count, "cpu")
                opened[one.id] = self._open_device(spec, cores, options.exact, None)
        for accelerator in found:
            memory = budgets.get(accelerator.name, accelerator.free_bytes)
            spec = DeviceSpec(accelerator.name, memory, 0, accelerator.backend)
            opened[spec.id] = self._open_device(spec, Cores(1), options.exact, accelerator)
        _check_cores([device.spec for device in opened.values()], len(usable))
        return opened

    def _open_device(
        self, spec: DeviceSpec, cores: Cores, is_exact: bool, accelerator: Accelerator | None
    ) -> Device:
        loop = StepLoop(cores, self._emit, self._at_work.is_set, spec.id)
        options = ContextOptions(is_exact, cores.count, is_on_cpu=accelerator is None)
        return Device(spec, loop, options, accelerator)

    def _emit(self, frame: Frame) -> None:
        self._send(Output(frame))

    def _check_file(self, spec: ModelSpec) -> None:
        """On the mover thread: the file is the one described, and it has not killed anybody."""
        if not self._vocabularies.is_unchanged(spec.location, spec.digest):
            check = self._vocabularies.check_unchanged
            self._vocabulary_thread.submit(check, spec.location, spec.digest).result()
        self._trials.prove(spec)

    def _on_opened(self, location: str, model: Model) -> None:
        self._vocabulary_thread.submit(self._vocabularies.adopt, location, model)

    def _on_leaving(self, location: str, model: Model) -> None:
        """Waited for: nobody may be tokenising with it when it is freed."""
        self._vocabulary_thread.submit(self._vocabularies.release, location, model).result()

    def _stats(self) -> WorkerStats:
        self._mover.await_tidy()
        taken = process_bytes()
        held = self._mover.replica_bytes
        seconds: dict[str, float] = {}
        for device in self._devices.values():
            seconds |= device.loop.step_seconds()
        return WorkerStats(
            pss_bytes=taken["Pss"],
            anonymous_bytes=taken["Anonymous"],
            mapped_file_bytes=taken["Pss_File"],
            overhead_bytes=max(0, taken["Pss"] - held),
            compute_threads=sum(device.loop.threads for device in self._devices.values()),
            steps=sum(device.loop.steps for device in self._devices.values()),
            step_seconds=seconds,
        )


def _capabilities(is_exact: bool, has_accelerator: bool) -> Capabilities:
    return Capabilities(
        edges=frozenset((rung, edge) for rung, edge in TRANSITIONS),
        partial_layers=has_accelerator,
        kv_resizable=True,
        max_devices_per_replica=1,
        step_sharing=True,
        host_is_page_cache=True,
        asleep_residue_bytes=0,
        exact_resume=is_exact,
    )


def _saved_kv(options: argparse.Namespace) -> SavedKv:
    disk = None
    if options.state_dir is not None:
        folder = Path(options.state_dir) / "saved-kv"
        disk = DiskKv(folder, options.saved_kv_disk_bytes, library.build_name())
    return SavedKv(options.saved_kv_bytes, disk)


def _is_there(endpoint: str) -> bool:
    """A device that has gone must not keep the others from serving."""
    if library.answers(endpoint):
        return True
    _log.warning("no RPC server answers at %s; going on without it", endpoint)
    return False


def _usable_cores() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _check_cores(devices: list[DeviceSpec], usable: int) -> None:
    """Threads beyond the cores cost an order of magnitude (facts.md)."""
    total = sum(device.cores for device in devices)
    if total > usable:
        raise SystemExit(f"the devices want {total} cores, this process may use {usable}")


async def _serve(options: argparse.Namespace) -> None:
    connected = _connected(options.socket)
    outbox = Outbox(connected, asyncio.get_running_loop())

    def send(message: FromWorker) -> None:
        """From any thread."""
        outbox.send(encode(message))

    worker = Worker(options, send)
    async with asyncio.TaskGroup() as group:
        beating = group.create_task(_beat(worker, send))
        loop = asyncio.get_running_loop()
        inbox = Inbox(lambda call: _answer(worker, call, send))
        _kept, _ = await loop.create_unix_connection(lambda: inbox, sock=connected)
        await inbox.ended
        _log.info("the socket closed; the worker ends")
        beating.cancel()


def _answer(worker: Worker, call: Call, send: Callable[[FromWorker], None]) -> None:
    def tell(future: "Future[Any]") -> None:
        error = future.exception()
        if error is None:
            send(Reply(call.id, msgspec.Raw(msgspec.msgpack.encode(future.result()))))
        elif isinstance(error, Exception):
            _log.info("call %d (%s) failed: %s", call.id, call.method, type(error).__name__)
            send(failure_of(call.id, error))

    try:
        future = worker.start(call)
    except (EngineError, msgspec.MsgspecError) as error:
        send(failure_of(call.id, error))
        return
    future.add_done_callback(tell)


async def _beat(worker: Worker, send: Callable[[FromWorker], None]) -> None:
    while True:
        send(worker.beat)
        await asyncio.sleep(_BEAT_S)


def _connected(where: str) -> socket.socket:
    """Without blocking, as a loop wants it."""
    if where.isdigit():
        connected = socket.socket(fileno=int(where))
    else:
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(where)
    connected.setblocking(False)
    return connected


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="repertory.engines.llamacpp.worker")
    parser.add_argument("--socket", required=True, help="a connected descriptor, or a path")
    parser.add_argument("--devices", default="[]", help="JSON: [{id, memory_bytes, cores}]")
    parser.add_argument("--node", default="local")
    parser.add_argument("--exact", action="store_true", help="logits independent of the load")
    parser.add_argument("--state-dir", help="where the proven files are written down")
    parser.add_argument(
        "--saved-kv-bytes", type=int, default=0, help="main memory for KV that lost its slot"
    )
    parser.add_argument(
        "--saved-kv-disk-bytes", type=int, default=0, help="of the state folder's disk, for more"
    )
    parser.add_argument("--rpc", action="append", default=[], help="HOST:PORT of an RPC server")
    parser.add_argument("--log-file", help="default: standard error")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run until the socket closes."""
    die_with_parent()  # a worker without its server must not keep the memory
    options = _options(arguments)
    logging.basicConfig(
        filename=options.log_file,
        level=logging.INFO,
        format="%(asctime)s %(threadName)s %(name)s: %(message)s",
    )
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    asyncio.run(_serve(options))
    # The step threads may be deep in a computation that nobody waits for any more.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
