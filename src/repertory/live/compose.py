"""Putting the live server together: brain, driver, worker, log, endpoint; and taking it apart."""

import asyncio
import gc
import logging
import os
import random
import secrets
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Protocol

import uvloop

from repertory.core.controller import Controller
from repertory.domain.decisions import Decision
from repertory.domain.errors import ConfigError, WorkerGone
from repertory.domain.events import DrainAsked, OperatorAsked, Wish
from repertory.domain.specs import DeviceSpec, NodeSpec
from repertory.engines.llamacpp.client import LlamaCppEngine
from repertory.fleet.child import Child
from repertory.fleet.local import LocalFleet, Loss, Worker
from repertory.live.command import NODE, worker_command
from repertory.live.driver import Driver
from repertory.live.facade import Service
from repertory.live.fit import Room
from repertory.live.log_file import LogFile
from repertory.live.memory import process_bytes
from repertory.live.options import ServeConfig
from repertory.live.profiled import Profiled
from repertory.live.reload import Source, Wishes
from repertory.live.server import Server
from repertory.live.watch import Watch
from repertory.perf.needs import size_text
from repertory.policy.places.fit import Split

__all__ = ["Endpoint", "run_server"]

_log = logging.getLogger(__name__)

GROWTH_BYTES = 96 << 20
"""What server and worker may grow by: vocabularies, connections, and the 24 MiB that stay with
the allocator after a free (worker.md, Memory)."""
DRAIN_S = 30.0
"""Running answers get so long to end after SIGTERM."""
_RESCAN_S = 10.0
_SAMPLE_S = 2.0
_REST_ROUNDS = 15
"""While nothing happens, memory is read every so many samples."""
_WATCH_S = 1.0


class Endpoint(Protocol):
    """The gateway, listening."""

    @property
    def port(self) -> int: ...

    async def serve(self) -> None: ...

    async def accepting(self) -> None: ...

    def stop(self) -> None: ...


def run_server(
    config: ServeConfig,
    open_endpoint: Callable[[Service], Endpoint],
    say: Callable[[str], None],
    source: Source | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    `source`: the file that the configuration came from; it is read again when it is edited.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Composition(config, open_endpoint, say, source).run())


class _Composition:
    """The parts of one server and what ties them."""

    def __init__(
        self,
        config: ServeConfig,
        open_endpoint: Callable[[Service], Endpoint],
        say: Callable[[str], None],
        source: Source | None,
    ) -> None:
        self._config = config
        self._open_endpoint = open_endpoint
        self._say = say
        faults: dict[str, str] = {}
        self._wishes = Wishes(config, source, faults, say)
        self._catalogue = self._wishes.catalogue
        luck = random.Random(secrets.randbits(64))
        self._server = Server(self._catalogue, config.memory_bytes, luck)
        self._server.faults = faults
        self._driver: Driver
        self._controller: Controller
        self._engine: LlamaCppEngine | None = None
        """The worker that is in use."""
        self._child_engine: LlamaCppEngine | None = None
        """The worker that runs: in use once it has told of its devices."""
        self._pid: int | None = None
        self._node: NodeSpec | None = None
        self._profiled = Profiled(config.state_dir, config.is_exact, say, self._digests)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._is_up = asyncio.Event()
        self._look_asked = asyncio.Event()
        self._has_terminal = _has_terminal()
        self._refusal: ConfigError | None = None
        self._bug: BaseException | None = None

    async def run(self) -> int:
        look = await self._wishes.first_look()  # a refusal must not pass the fleet's task group
        async with AsyncExitStack() as stack:
            state_dir = self._config.state_dir
            fleet = await stack.enter_async_context(LocalFleet(state_dir))
            log = LogFile(state_dir, self._wishes.settings)
            stack.callback(log.close)
            self._controller = Controller(self._wishes.settings, partial(self._record, log))
            self._driver = Driver(self._controller, self._server, now_ns=time.monotonic_ns)
            self._server.connect(self._controller, self._driver)
            stack.push_async_callback(self._driver.close)
            self._wishes.begin(self._driver, look)
            worker = fleet.keep(
                worker_command(self._config), on_up=self._on_up, on_lost=self._on_lost
            )
            try:
                self._spawn(self._watch_logs(log, worker))
                await self._serve(self._open_endpoint(self._server), worker)
            finally:
                for task in list(self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await worker.stop()
        # Only now: the fleet's task group would wrap it.
        for reason in (self._refusal, self._bug):
            if reason is not None:
                raise reason
        return 0

    async def _serve(self, endpoint: Endpoint, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._spawn(self._wishes.watch(self._look_asked))
        for work in (self._watch_memory(), self._watch_worker(worker), self._rescan()):
            self._spawn(work)
        serving = loop.create_task(endpoint.serve())
        broken = loop.create_task(self._driver.failed())
        stopping = loop.create_task(self._stop.wait())
        self._spawn(self._greet_operator(endpoint))
        done, _ = await asyncio.wait(
            {serving, broken, stopping}, return_when=asyncio.FIRST_COMPLETED
        )
        if done == {stopping} and self._refusal is None and self._bug is None:
            await self._drain()
        self._server.close()
        endpoint.stop()
        await serving
        if broken in done:
            self._bug = broken.exception()
        for task in (stopping, broken):
            task.cancel()

    async def _greet_operator(self, endpoint: Endpoint) -> None:
        """Once requests can be answered; those that come before wait for the worker."""
        await endpoint.accepting()
        await self._is_up.wait()
        gc.collect()
        gc.freeze()  # what stands now stays: full collections need not walk it
        self._say(self._greeting(endpoint.port))

    def _greeting(self, port: int) -> str:
        names = ", ".join(sorted(self._catalogue.offers)) or "none yet"
        return (
            f"serving {len(self._catalogue.offers)} models ({names}) "
            f"at http://{self._config.host}:{port}/v1"
        )

    async def _drain(self) -> None:
        """No new requests; what is in gets `DRAIN_S` to end."""
        self._say(f"draining: running answers get {DRAIN_S:.0f} s; again to stop at once")
        self._driver.post(DrainAsked(self._driver.now_ns()))
        self._stop.clear()
        again = asyncio.get_running_loop().create_task(self._stop.wait())
        deadline_s = time.monotonic() + DRAIN_S
        while self._controller.state.requests and time.monotonic() < deadline_s:
            await asyncio.wait({again}, timeout=0.05)
            if again.done():
                break
        again.cancel()

    def _record(self, log: LogFile, decision: Decision) -> None:
        log.record(decision)
        self._server.decided(decision)

    def _on_hangup(self) -> None:
        """Read the configuration again; or stop, if it means that our terminal was closed."""
        if self._has_terminal and not _has_terminal():
            self._stop.set()
        else:
            self._look_asked.set()

    def _on_up(self, child: Child) -> None:
        self._pid = child.pid
        self._child_engine = LlamaCppEngine(child.reader, child.writer)
        self._spawn(self._greet(self._child_engine))

    async def _greet(self, engine: LlamaCppEngine) -> None:
        try:
            node = await engine.probe()
            overhead = (await engine.stats()).overhead_bytes
        except WorkerGone:
            return  # its loss is told by the fleet
        if not self._is_up.is_set():
            own = await asyncio.to_thread(process_bytes)
            self._server.overhead_bytes = own + overhead + GROWTH_BYTES
        try:
            node, room = self._budgeted(node)
            if not self._is_up.is_set():
                self._wishes.fit(room)
        except ConfigError as refusal:
            self._refusal = refusal
            self._stop.set()
            return
        is_news = await asyncio.to_thread(self._profiled.look)
        if self._child_engine is not engine:
            return  # died meanwhile
        self._engine = engine
        self._server.faults.pop(NODE, None)
        self._server.use(engine)
        self._driver.attach(engine, node)
        self._node = node
        if is_news:
            self._tell_costs()
        self._is_up.set()
        for name, offer in sorted(self._catalogue.offers.items()):
            if offer.is_preloaded:
                self._driver.post(OperatorAsked(self._driver.now_ns(), name, Wish.LOAD))

    def _budgeted(self, node: NodeSpec) -> tuple[NodeSpec, Room]:
        """Take what server and worker use themselves off the devices that live in main memory."""
        overhead, host = self._server.overhead_bytes, self._config.saved_kv_bytes
        memory = self._config.memory_bytes
        left = memory - overhead - host
        here = [device for device in node.devices if device.backend == "cpu"]
        wanted = sum(device.memory_bytes for device in here)
        terms = f"{size_text(overhead)} for server and worker"
        if host:
            terms += f" - {size_text(host)} host_memory"
        if left <= 0:
            raise ConfigError(
                f"no memory is left for models: {size_text(memory)} - {terms} = {size_text(left)}; "
                f"give more --memory"
            )
        chosen = self._config.devices or ()
        is_named = chosen and all(one.memory_bytes for one in chosen if one.cores)
        if is_named and wanted > left:
            raise ConfigError(
                f"the devices are given {size_text(wanted)}, but only {size_text(memory)} - "
                f"{terms} = {size_text(left)} are left for them; lower theirs, or give more "
                f"--memory"
            )
        share = min(1.0, left / wanted) if wanted else 1.0
        devices = tuple(
            _with_memory(device, round(device.memory_bytes * share)) if device in here else device
            for device in node.devices
        )
        story = f"{size_text(memory)} - {terms}" if here else ""
        node = replace(node, devices=devices)
        sizes = {device.id: device.memory_bytes for device in devices}
        return node, Room(sizes, story, tuple(Split.of(node)))

    def _on_lost(self, loss: Loss) -> None:
        self._engine, self._child_engine, self._pid = None, None, None
        self._server.use(None)
        self._server.faults[NODE] = loss.reason
        _log.error("worker lost: %s", loss.reason)
        self._driver.detach(NODE, loss.reason)

    async def _watch_memory(self) -> None:
        """Read what the processes hold, but leave them alone while nothing happens: the kernel
        walks all their pages for it.
        """
        seen: object = None
        rounds = 0
        while True:
            beat = self._engine.last_beat if self._engine is not None else None
            now = (self._pid, beat.progress if beat is not None else None)
            if now != seen or rounds % _REST_ROUNDS == 0:
                pids: list[int | str] = ["self"] + ([self._pid] if self._pid is not None else [])
                sizes = [await asyncio.to_thread(process_bytes, pid) for pid in pids]
                self._server.process_bytes = sum(sizes)
            seen, rounds = now, rounds + 1
            await asyncio.sleep(_SAMPLE_S)

    async def _watch_worker(self, worker: Worker) -> None:
        """A worker that hangs is killed, and started again by the fleet."""
        watched, watch = None, Watch(time.monotonic())
        while True:
            await asyncio.sleep(_WATCH_S)
            now_s = time.monotonic()
            if watched != self._pid:
                watched, watch = self._pid, Watch(now_s)
            if self._child_engine is None:
                continue
            predicted_s = self._server.longest_prediction_s()
            verdict = watch.look(now_s, self._child_engine.last_beat, predicted_s)
            if verdict is not None:
                worker.kill(verdict)

    async def _watch_logs(self, log: LogFile, worker: Worker) -> None:
        """What the disk does not take is known to whoever asks; what it takes is bounded."""
        while True:
            self._server.log_dropped = log.dropped
            if log.fault is not None:
                self._server.faults["decision log"] = log.fault
            else:
                self._server.faults.pop("decision log", None)
            await asyncio.to_thread(worker.bound_log)
            await asyncio.sleep(_SAMPLE_S)

    async def _rescan(self) -> None:
        while True:
            await asyncio.sleep(_RESCAN_S)
            await self._wishes.look_again()
            if await asyncio.to_thread(self._profiled.look):
                self._tell_costs()

    def _digests(self) -> dict[str, str]:
        """Of the files on offer, by the name of the model."""
        offers = sorted(self._catalogue.offers.items())
        return {name: offer.spec.digest for name, offer in offers}

    def _tell_costs(self) -> None:
        """What `repertory profile` measured of this machine."""
        if self._node is not None:
            for event in self._profiled.events(self._driver.now_ns(), self._node):
                self._driver.post(event)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (broken := task.exception()) is not None:
            self._bug = broken
            self._stop.set()


def _has_terminal() -> bool:
    """Whether this process has a terminal that it hears hang-ups of."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _with_memory(device: DeviceSpec, memory_bytes: int) -> DeviceSpec:
    return replace(device, memory_bytes=memory_bytes)
