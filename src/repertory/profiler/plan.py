"""What is measured of a model on a device: one list of small items, each named, each complete by
itself, so that a run that was interrupted goes on with the next.

`--quick` is a part of the whole: equal items have equal names and equal repeats.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from repertory.domain.ladder import Edge, Rung
from repertory.domain.readings import (
    ContentionReading,
    CycleReading,
    KvReading,
    LinkReading,
    LoadReading,
    MemoryReading,
    OpenReading,
    StepReading,
)
from repertory.domain.specs import Capabilities, DeviceSpec, KvShape, ModelSpec, NodeSpec
from repertory.domain.specs import WeightsForm as Form
from repertory.perf.bytes import shape_for, share_there
from repertory.perf.profiles import Profile, prior_profile
from repertory.profiler.beside import read_load_beside_steps, read_two_loads
from repertory.profiler.contexts import read_kv, read_open, read_resize
from repertory.profiler.cycles import LEFT_TOKENS, read_cycle
from repertory.profiler.links import read_copy, read_disk, read_page_cache
from repertory.profiler.loads import read_load
from repertory.profiler.stand import Stand
from repertory.profiler.steps import decode_shape, read_decode, read_prefill
from repertory.profiler.subjects import Place, Subject

__all__ = ["Item", "Points", "Reading", "items_for", "points_for"]

Reading = (
    LoadReading
    | OpenReading
    | StepReading
    | KvReading
    | CycleReading
    | LinkReading
    | ContentionReading
    | MemoryReading
)
Measure = Callable[[Stand], Awaitable[tuple[Reading, ...]]]


@dataclass(frozen=True, slots=True)
class Item:
    """One measurement."""

    name: str
    """Unique for a model; begins with the device."""
    device: DeviceSpec
    expected_s: float
    """By the prior: only for a bar's length."""
    measure: Measure


@dataclass(frozen=True, slots=True)
class Points:
    """Where curves are sampled.  The paper's own points are the whole (Yildiz §1.3, §1.4)."""

    lengths: tuple[int, ...] = (50, 150, 300, 500, 1000, 5000)
    shares_percent: tuple[int, ...] = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 92, 94, 96, 98, 100)
    """Dense above 90: that is where the curves are steep."""
    interruptions: tuple[int, ...] = (100, 200, 500, 1000, 1500, 2000, 3000, 4000, 5000)
    batches: tuple[tuple[int, int], ...] = tuple(
        (batch, context) for context in (64, 500, 1000, 2500, 5000) for batch in (1, 2, 4, 8, 16)
    )
    """Sequences, and the context of each."""
    kv_tokens: tuple[int, ...] = (256, 500, 1000, 2500, 5000)
    contexts: tuple[tuple[int, int], ...] = (
        *((1, 256), (1, 1024), (1, 2048), (4, 2048), (8, 512), (8, 2048), (1, 8192), (16, 1024)),
    )
    resizes: tuple[tuple[int, int], ...] = ((256, 1024), (1024, 2048))
    """Cells of a slot, before and after."""
    claimants: int = 2
    """The smallest and the largest of the other models: does a preemption's cost depend on them?"""


_QUICK = Points(
    lengths=(50, 150, 300, 1000),
    shares_percent=(0, 50, 90, 100),
    interruptions=(200, 1000),
    batches=((1, 64), (2, 64), (4, 64), (8, 64), (1, 1000), (4, 1000)),
    kv_tokens=(256, 1000),
    contexts=((1, 256), (1, 2048), (4, 2048)),
    resizes=((256, 1024),),
    claimants=1,
)


def points_for(is_quick: bool) -> Points:
    return _QUICK if is_quick else Points()


def items_for(
    subject: Subject, others: Sequence[Subject], node: NodeSpec, points: Points
) -> list[Item]:
    """All of them, in an order in which each finds most of what it needs in place."""
    claimants = _claimants(subject, others, points.claimants)
    plans = [_Plan(subject, claimants, node, device, points) for device in node.devices]
    named = {one.name: one for plan in plans for one in plan.items()}
    return list(named.values())


def _claimants(subject: Subject, others: Sequence[Subject], most: int) -> list[Subject]:
    """The smallest, and the largest; a name decides between equals."""
    able = [one for one in others if one.is_generating and one.spec.digest != subject.spec.digest]
    able.sort(key=lambda one: (one.spec.weights_bytes, one.spec.name))
    return able[:1] + able[1:][-1:] if most > 1 else able[:1]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Of one model on one device."""

    subject: Subject
    claimants: list[Subject]
    node: NodeSpec
    device: DeviceSpec
    points: Points

    @property
    def _spec(self) -> ModelSpec:
        return self.subject.spec

    @property
    def _prior(self) -> Profile:
        return prior_profile(self._spec, self.device)

    @property
    def _abilities(self) -> Capabilities:
        return self.node.capabilities

    @property
    def _is_cores(self) -> bool:
        return self.device.cores > 0

    def items(self) -> Iterator[Item]:
        """Links, then what each form costs, then what happens between models."""
        yield from self._links()
        for place in self._forms():
            yield from self._loads(place)
            yield from self._contexts(place)
            if self.subject.is_generating:
                yield from self._computing(place)
        if self.subject.is_generating:
            yield from self._shares()
            yield from self._between()

    def _item(self, words: str, expected_s: float, measure: Measure) -> Item:
        return Item(f"{self.device.id}: {words}", self.device, expected_s, measure)

    def _forms(self) -> list[Place]:
        """Whole, in every form that this device knows."""
        places = [Place(self.device)]
        if self._spec.repacked_bytes and self._is_cores:
            places.append(Place(self.device, Form.REPACKED))
        return places

    def _links(self) -> Iterator[Item]:
        path = Path(self._spec.location)
        if not path.is_file() or not self._is_cores:
            return
        spare = next((Path(one.spec.location) for one in self.claimants), None)
        yield self._item("memory copy", 0.3, read_copy)
        yield self._item("page cache read", 0.3, partial(read_page_cache, path=path))
        yield self._item("disk read", 1.0, partial(read_disk, path=path, other=spare))

    def _loads(self, place: Place) -> Iterator[Item]:
        """From the disk first: pages that were read together are mapped together.  Measured, 300M:
        29.6 ms from a page cache that the file was written into, 7.1 once the file had been read
        back, as it is by every server that has brought the model up before.
        """
        if self._can_drop:
            yield self._load(place, Rung.DISK)
        yield self._load(place, Rung.HOST)

    @property
    def _can_drop(self) -> bool:
        return (Rung.HOST, Edge.DROP) in self._abilities.edges

    def _load(self, place: Place, rung: Rung) -> Item:
        measure = partial(read_load, subject=self.subject, place=place, source=rung)
        expected_s = 5.0 * self._load_s(place, rung)
        return self._item(f"load, {_words(place)}, from {rung.value}", expected_s, measure)

    def _contexts(self, place: Place) -> Iterator[Item]:
        if place.form is not Form.PLAIN:
            return  # KV memory knows nothing of the weights' form
        law = self._prior.activate
        for kv in self._shapes(self.points.contexts):
            size = kv.tokens * self._spec.kv_bytes_per_token
            measure = partial(read_open, subject=self.subject, place=place, kv=kv)
            words = f"context of {kv.sequences} x {kv.cells}"
            yield self._item(words, 6.0 * law.seconds(size), measure)
        if not self._abilities.kv_resizable or not self.subject.is_generating:
            return
        for before, after in self.points.resizes:
            small, large = KvShape(1, before), KvShape(1, after)
            if after > self._spec.context_tokens:
                continue
            grow = partial(read_resize, subject=self.subject, place=place, small=small, large=large)
            expected_s = self._prefill_s(place, before) + 0.3
            yield self._item(f"resize from {before} to {after}", expected_s, grow)

    def _shapes(self, wanted: Sequence[tuple[int, int]]) -> list[KvShape]:
        """Those that this model can have, each once."""
        return list(dict.fromkeys(shape_for(self._spec, *one) for one in wanted))

    def _computing(self, place: Place) -> Iterator[Item]:
        for tokens in self._lengths(1):
            yield self._prefill(place, tokens)
        for batch, context in self.points.batches:
            if decode_shape(self.subject, batch, context).cells < context + 128:
                continue
            if batch <= self._spec.max_sequences:
                yield self._decode(place, batch, context)
        if place.form is Form.PLAIN:
            for tokens in self.points.kv_tokens:
                if tokens + 2 <= self._spec.context_tokens:
                    yield self._kv(place, tokens)

    def _kv(self, place: Place, tokens: int) -> Item:
        measure = partial(read_kv, subject=self.subject, place=place, tokens=tokens)
        expected_s = self._prefill_s(place, tokens) + 0.5
        return self._item(f"KV of {tokens} tokens, {_words(place)}", expected_s, measure)

    def _lengths(self, beyond: int) -> list[int]:
        most = self._spec.context_tokens - beyond
        return [tokens for tokens in self.points.lengths if tokens <= most]

    def _prefill(self, place: Place, tokens: int) -> Item:
        kv = shape_for(self._spec, 1, max(self._lengths(1)) + 1)
        measure = partial(read_prefill, subject=self.subject, place=place, tokens=tokens, kv=kv)
        expected_s = 3.0 * self._prefill_s(place, tokens)
        return self._item(f"prompt of {tokens}, {_words(place)}", expected_s, measure)

    def _decode(self, place: Place, batch: int, context: int) -> Item:
        step_s = self._prior.decode_s(place.form, batch, batch * context, place.share)
        measure = partial(
            read_decode, subject=self.subject, place=place, batch=batch, context_tokens=context
        )
        expected_s = self._prefill_s(place, context) + 60.0 * step_s
        words = f"decode of {batch} at {context}, {_words(place)}"
        return self._item(words, expected_s, measure)

    def _prefill_s(self, place: Place, tokens: int) -> float:
        return self._prior.prefill_s(place.form, tokens, 0, place.share)

    def _load_s(self, place: Place, rung: Rung) -> float:
        return self._prior.load_s(place.form, rung, self._spec.weights_bytes, place.share)

    def _shares(self) -> Iterator[Item]:
        """k of n layers there, the rest on the cores (Yildiz, §1.3)."""
        if not self._abilities.partial_layers or self._is_cores:
            return
        for place in self._partial_places():
            yield self._load(place, Rung.HOST)
            if place.layers == 0 and self._can_drop:  # the law of what stays on the cores
                yield self._load(place, Rung.DISK)
            for tokens in self._lengths(192):
                yield self._prefill(place, tokens)
                yield self._decode(place, 1, tokens)
            if place.layers:
                yield self._kv(place, min(1000, self._spec.context_tokens - 2))

    def _partial_places(self) -> Iterator[Place]:
        """None of the layers: on the cores.  The whole last: most of it is measured already."""
        spec = self._spec
        counts = {round(spec.layers * one / 100) for one in self.points.shares_percent}
        cores = next((one for one in self.node.devices if one.cores), None)
        for layers in sorted(counts - {spec.layers}):
            if layers:
                yield Place(self.device, layers=layers, share=share_there(spec, layers))
            elif cores is not None:
                yield Place(cores, layers=0, share=0.0)
        yield Place(self.device)

    def _between(self) -> Iterator[Item]:
        place = Place(self.device)
        for other in self.claimants:
            name = other.spec.name
            two = partial(read_two_loads, subject=self.subject, place=place, other=other)
            yield self._item(f"load during that of {name}", 1.0, two)
            beside = partial(read_load_beside_steps, subject=self.subject, place=place, other=other)
            yield self._item(f"load while {name} decodes", 4.0, beside)
            most = self._spec.context_tokens - LEFT_TOKENS
            for tokens in (one for one in self.points.interruptions if one <= most):
                for stays in (False, True):
                    yield self._cycle(place, other, tokens, stays)

    def _cycle(self, place: Place, other: Subject, tokens: int, stays: bool) -> Item:
        swap_s = 2.0 * self._load_s(place, Rung.HOST)
        measure = partial(
            read_cycle,
            victim=self.subject,
            place=place,
            claimant=other,
            point=(tokens, stays),
        )
        words = f"preemption at {tokens} for {other.spec.name}"
        expected_s = 5.0 * (swap_s + 0.2) + self._prefill_s(place, tokens)
        return self._item(words + (", weights stay" if stays else ""), expected_s, measure)


def _words(place: Place) -> str:
    if place.layers is None:
        return place.form.value
    return f"{place.layers} layers"
