"""The mover thread: walks replicas along the ladder, and measures every step of the way.

It loads with prefault, frees and trims, niced, while the step loops go on.  What touches a running
context is handed to its step loop and applies between steps.  While a load reads or copies, the
short moves that came after it run in between: a 50M that maps its pages in 30 ms waited 2 s for a
1.1B that was being repacked.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import assert_never

from repertory.domain.actions import (
    Activate,
    Deactivate,
    Drop,
    Load,
    Resize,
    Stage,
    Transition,
    Unload,
    edge_of,
)
from repertory.domain.errors import EngineError
from repertory.domain.events import Measured
from repertory.domain.ladder import IllegalTransition, Rung, destination
from repertory.domain.specs import KvShape, ModelSpec, Placement, WeightsForm
from repertory.engines.contract import GenerationSpec
from repertory.engines.grammar.automaton import Grammar
from repertory.engines.llamacpp.account import Account, Tiers, in_use, measured_of
from repertory.engines.llamacpp.cells.computed import Weights, computed_of
from repertory.engines.llamacpp.cells.saved import SavedKv
from repertory.engines.llamacpp.cells.slots import Copied
from repertory.engines.llamacpp.context import Context
from repertory.engines.llamacpp.device import Device
from repertory.engines.llamacpp.firsts import Contexts, freed_on_failure
from repertory.engines.llamacpp.futures import then
from repertory.engines.llamacpp.library import Accelerator
from repertory.engines.llamacpp.serving import Serving
from repertory.engines.llamacpp.steps import StepLoop
from repertory.engines.llamacpp.turns import Turns, be_nice
from repertory.engines.llamacpp.weights import (
    Shelf,
    Shelved,
    drop_from_host,
    read_into_host,
    shards,
    source_of,
    taken_bytes,
    trim,
)

__all__ = ["Mover"]


@dataclass(slots=True, eq=False)
class _Replica:
    """A replica above `DISK`."""

    id: str
    spec: ModelSpec
    rung: Rung = Rung.DISK
    device: Device | None = None
    held: Shelved | None = None
    account: Account = field(default_factory=Account)

    @property
    def accelerator(self) -> Accelerator | None:
        return None if self.device is None else self.device.accelerator

    @property
    def here_bytes(self) -> int:
        """KV memory and buffers in main memory."""
        total = self.account.total
        return total.there_bytes if self.accelerator is None else total.rest_bytes


class Mover:
    """All replicas of a worker.  Transitions queue; one runs at a time, and a long one lets short
    ones of other replicas in."""

    def __init__(
        self,
        devices: Mapping[str, Device],
        shelf: Callable[[Callable[[], int]], Shelf],
        check_file: Callable[[ModelSpec], None],
        at_work: threading.Event,
        saved: SavedKv,
    ) -> None:
        """`shelf` gets what to call while it copies; the answer is what others took meanwhile."""
        self.moves = 0
        self._at_work = at_work
        self._saved = saved
        self._devices = devices
        self._check_file = check_file
        self._shelf = shelf(self._let_others_in)
        self._loading: str | None = None
        """The file that a load reads or copies."""
        self._contexts = Contexts()
        self._replicas: dict[str, _Replica] = {}
        self._turns = Turns("mover", be_nice)

    @property
    def replica_bytes(self) -> int:
        """What all replicas hold in main memory, by the last reading; shared weights count once."""
        replicas = list(self._replicas.values())
        shared = {
            id(one.held): one.held.weights_bytes if one.accelerator is None else one.held.rest_bytes
            for one in replicas
            if one.held is not None
        }
        return sum(shared.values()) + sum(one.here_bytes for one in replicas)

    def await_tidy(self) -> None:
        """What the moves that were answered left in this process has gone."""
        with self._turns.tidying:
            pass

    def start(self, action: Transition, spec: ModelSpec | None = None) -> Future[Measured]:
        """Queue a transition.  One that fails leaves the replica where it stood."""
        return self._turns.submit(
            action.replica_id,
            partial(self._walk, action, spec),
            partial(self._is_short, action, spec),
        )

    def submit(
        self, replica_id: str, spec: GenerationSpec, grammar: Grammar | None = None
    ) -> Future[None]:
        """Start a generation on a serving replica."""
        replica = self._replicas.get(replica_id)
        if replica is None or replica.device is None:
            raise EngineError(f"no replica {replica_id} is serving")
        loop = replica.device.loop
        return loop.call(lambda: loop.get(replica_id).submit(spec, grammar), replica_id)

    def fetch(self, replica_id: str, spec: GenerationSpec) -> Future[None] | None:
        """Bring what the disk has of its cells into memory, before it takes a slot; None: nothing
        is there.
        """
        replica = self._replicas.get(replica_id)
        if replica is None or replica.device is None or replica.held is None:
            return None
        device, weights = replica.device, _weights(replica.device, replica.held)
        wanted = computed_of(spec, is_exact=weights.is_exact)
        if spec.wants_embedding or not self._saved.may_fetch(weights, wanted):
            return None
        loop = device.loop
        asked = loop.call(lambda: loop.get(replica_id).reusable(spec), replica_id)
        return then(asked, lambda: self._saved.fetch(weights, wanted, asked.result()))

    def location_of(self, replica_id: str) -> str:
        """The file that a replica was loaded from."""
        replica = self._replicas.get(replica_id)
        if replica is None:
            raise EngineError(f"there is no replica {replica_id}")
        return replica.spec.location

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Steps leave a core free meanwhile."""
        was_at_work = self._at_work.is_set()
        self._at_work.set()
        try:
            yield
        finally:
            if not was_at_work:
                self._at_work.clear()

    def _is_short(self, action: Transition, spec: ModelSpec | None) -> bool:
        """Whether a load that is under way lets this move in.

        1. What reads a file, or copies weights, waits its turn.
        2. So does a load of the very file that is being loaded.
        """
        if not isinstance(action, Load):
            return not isinstance(action, Stage)
        if spec is None or action.placement.form is not WeightsForm.PLAIN:
            return False
        if spec.location == self._loading or not self._is_in_place(action.placement):
            return False
        try:
            return source_of(shards(Path(spec.location))) is Rung.HOST
        except OSError:
            return True  # it fails at once

    def _is_in_place(self, placement: Placement) -> bool:
        """Whether it computes from the file's own pages."""
        known = (self._devices.get(name) for name in placement.devices)
        return all(one is not None and one.accelerator is None for one in known)

    def _let_others_in(self) -> int:
        """The anonymous bytes that they took, or gave back if negative."""
        before = taken_bytes(None)
        return taken_bytes(None) - before if self._turns.let_in() else 0

    def cancel(self, generation_id: str) -> Future[None]:
        """Stop a generation wherever it runs, at the next step of its device."""
        return self._everywhere(lambda loop: loop.cancel(generation_id))

    def preempt(self, generation_id: str) -> Future[None]:
        """Stop a generation wherever it runs, and say so among its tokens."""
        for device in self._devices.values():
            device.loop.interrupt(generation_id)
        return self._everywhere(lambda loop: loop.preempt(generation_id))

    def hold(self, generation_id: str, is_held: bool) -> Future[None]:
        """Keep a generation out of the steps of its device, or let it go on."""
        return self._everywhere(lambda loop: loop.hold(generation_id, is_held))

    def _everywhere(self, do: Callable[[StepLoop], None]) -> Future[None]:
        """On each device, between all steps; done when it was done on all."""
        asked = iter([one.loop.call(partial(do, one.loop)) for one in self._devices.values()])
        done: Future[None] = Future()

        def await_next(_: Future[None] | None = None) -> None:
            following = next(asked, None)
            if following is None:
                done.set_result(None)
            else:
                following.add_done_callback(await_next)

        await_next()
        return done

    def _walk(self, action: Transition, spec: ModelSpec | None) -> Measured:
        replica = self._replicas.get(action.replica_id)
        if replica is None:
            if spec is None:
                raise EngineError(f"there is no replica {action.replica_id}")
            replica = _Replica(action.replica_id, spec)
        elif spec is not None and replica.held is None:
            replica.spec = spec  # nothing is open: what counts is what is asked for now
        try:
            target = destination(replica.rung, edge_of(action), f"replica {replica.id}")
        except IllegalTransition as error:
            raise EngineError(str(error)) from error
        measured = self._apply(action, replica)
        replica.rung = target
        if target is Rung.DISK:
            self._replicas.pop(replica.id, None)
        else:
            self._replicas[replica.id] = replica
        self.moves += 1
        return measured

    def _apply(self, action: Transition, replica: _Replica) -> Measured:
        started_ns = self._spent_ns()
        source: Rung | None = None
        saved, first_ns = Copied(), 0
        match action:
            case Stage():
                with self._working():
                    self._stage(replica.spec)
            case Load():
                is_let_in = self._at_work.is_set()
                with self._working():
                    self._check_file(replica.spec)
                    if not is_let_in:
                        self._await_step(action.placement)
                    started_ns = self._spent_ns()  # neither is a part of what a load costs
                    source = self._load(replica, action.placement)
                first_ns = replica.held.first_ns if replica.held is not None else 0
            case Activate():
                self._activate(replica, action.kv)
                first_ns = self._contexts.first_ns
            case Resize():
                saved = self._resize(replica, action.kv)
            case Deactivate():
                saved = self._deactivate(replica)
            case Unload():
                self._unload(replica)
            case Drop():
                for path in shards(Path(replica.spec.location)):
                    drop_from_host(path)
            case _:
                assert_never(action)
        took_ns = self._spent_ns() - started_ns
        held, account = replica.held, replica.account
        measured = measured_of(took_ns, source, held, account, replica.accelerator, saved)
        return replace(measured, first_ns=min(first_ns, took_ns))

    def _spent_ns(self) -> int:
        """Time, less that of the moves that were let in."""
        return time.monotonic_ns() - self._turns.aside_ns

    def _await_step(self, placement: Placement) -> None:
        """Until a core is free: beside a step of all threads, a niced one gets next to nothing."""
        for device in placement.devices:
            if device in self._devices:
                self._devices[device].loop.at_once(lambda: None)

    def _load(self, replica: _Replica, placement: Placement) -> Rung:
        if len(placement.devices) != 1 or placement.devices[0] not in self._devices:
            raise EngineError(f"cannot place {replica.spec.name} on {placement.devices}")
        device = self._devices[placement.devices[0]]
        device.check_layers(replica.spec, placement)
        source = source_of(shards(Path(replica.spec.location)))
        if source is Rung.DISK:
            # Read ahead of the library, whose own page faults come one by one.
            self._stage(replica.spec)
        with self._reading(replica.spec):
            replica.held = self._shelf.take(replica.spec, placement, device.accelerator)
        replica.device = device
        return source

    def _stage(self, spec: ModelSpec) -> None:
        with self._reading(spec):
            for path in shards(Path(spec.location)):
                read_into_host(path, self._let_others_in)

    @contextmanager
    def _reading(self, spec: ModelSpec) -> Iterator[None]:
        """Of two that are under way, the outer one counts: it alone lets others in."""
        outer = self._loading
        self._loading = outer or spec.location
        try:
            yield
        finally:
            self._loading = outer

    def _unload(self, replica: _Replica) -> None:
        held, replica.held, replica.device = replica.held, None, None
        assert held is not None, f"replica {replica.id} has no weights"
        with self._working():
            self._shelf.give_back(held)
        self._turns.leave(trim)

    def _activate(self, replica: _Replica, shape: KvShape) -> None:
        device, held = _standing(replica)
        before = in_use(device.accelerator)
        with self._working():
            context = Context(held.model, shape, device.options)
        serving = Serving(replica.id, held.model, context, self._saved, _weights(device, held))
        with freed_on_failure(context):
            per_token = self._contexts.token_bytes((held.key, device.spec.id), device.loop, context)
            device.loop.open(serving)
        self._read_back(replica, context, per_token, before)

    def _resize(self, replica: _Replica, shape: KvShape) -> Copied:
        device, held = _standing(replica)
        loop = device.loop
        left = loop.get(replica.id).context
        before = in_use(device.accelerator).plus(replica.account.total, -1)
        with self._working():  # when the step under way has ended, the next one leaves a core to us
            loop.call(lambda: loop.get(replica.id).check_fits(shape), replica.id).result()
            context = Context(held.model, shape, device.options)
        with freed_on_failure(context):
            per_token = self._contexts.token_bytes((held.key, device.spec.id), device.loop, context)
            saved = loop.call(lambda: loop.get(replica.id).move_to(context), replica.id).result()
        with self._working():
            left.free()
            trim()
        self._read_back(replica, context, per_token, before)
        return saved

    def _deactivate(self, replica: _Replica) -> Copied:
        loop = _standing(replica)[0].loop
        serving = loop.at_once(lambda: loop.shut(replica.id), replica.id)
        with self._working():
            saved = serving.save_all()
            serving.context.free()
        self._turns.leave(trim)
        replica.account = Account()
        return saved

    def _read_back(
        self, replica: _Replica, context: Context, per_token_bytes: int, before: Tiers
    ) -> None:
        device, held = _standing(replica)
        of, each = (held.key, device.spec.id), (per_token_bytes, replica.spec.kv_bytes_per_token)
        replica.account = self._contexts.read_back(of, context, device.accelerator, each, before)


def _weights(device: Device, held: Shelved) -> Weights:
    digest, form, place, layers = held.key
    architecture, is_exact = held.model.architecture, device.options.is_exact
    return Weights(digest, architecture, form.value, place, layers, is_exact)


def _standing(replica: _Replica) -> tuple[Device, Shelved]:
    device, held = replica.device, replica.held
    assert device is not None, f"replica {replica.id} has no device"
    assert held is not None, f"replica {replica.id} has no weights"
    return device, held
