"""Classes of KV memory that a queue could be served with."""

from collections.abc import Iterator
from itertools import islice

from repertory.core.places.sites import USUAL_CELLS
from repertory.core.requests.queueing import first_of
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.specs import KvShape, NodeSpec
from repertory.perf.bytes import shape_for

__all__ = ["cells_ahead", "shapes_for", "share_above", "wider_shapes"]

_LOOK_AHEAD = 64
"""How far into the queue lengths are looked at: bounds the work per event."""


def wider_shapes(
    model: ModelState, replica: ReplicaState, held: KvShape, ahead: list[int]
) -> Iterator[KvShape]:
    """All that its queue lacks, or at least what its head does.

    A head that needs longer slots may have fewer of them: else it waits for all others' end.
    """
    taken, spec = len(replica.running), replica.spec
    all_of_it = shape_for(spec, taken + len(model.queue), max(ahead))
    head = shape_for(spec, taken + 1, ahead[0])
    is_too_long = ahead[0] > held.cells
    exact = min(taken + 1, spec.max_sequences)
    sequences = exact if is_too_long else max(head.sequences, held.sequences)
    shapes = (
        KvShape(max(all_of_it.sequences, held.sequences), all_of_it.cells),
        KvShape(sequences, head.cells),
    )
    for shape in dict.fromkeys(shapes):
        wider = KvShape(shape.sequences, max(shape.cells, held.cells))
        fails = model.failed_kv_tokens is not None and wider.tokens >= model.failed_kv_tokens
        if wider != held and not fails:
            yield wider


def cells_ahead(state: State, step: Step, model: ModelState) -> list[int]:
    """Cells of those who wait, who is next first."""
    first = first_of(state, model, step.at_ns)
    if first is None:
        return []
    ahead = islice(model.queue.values(), _LOOK_AHEAD)
    return [first.request.cells, *[one.request.cells for one in ahead if one is not first]]


def shapes_for(model: ModelState, node: NodeSpec, ahead: list[int]) -> list[list[KvShape]]:
    """KV context classes by slot length; in each, from the wanted number of slots down to one.

    Slots for the longest request that waits, and slots for the head alone.  What can grow later is
    offered in fewer sizes.
    """
    spec = model.spec
    cells = max(ahead, default=min(USUAL_CELLS, spec.context_tokens, model.largest_cells))
    sequences, smaller = max(2, len(model.queue)), 4
    if not node.capabilities.kv_resizable:
        cells, sequences, smaller = max(cells, spec.context_tokens), spec.max_sequences, 2
    longest = shape_for(spec, sequences, cells)
    lengths = [longest.cells]
    if ahead:
        lengths += sorted({longest.cells, shape_for(spec, 1, ahead[0]).cells})[:-1]
    shapes = [_divided(longest.sequences, smaller, length) for length in lengths]
    if model.failed_kv_tokens is None:
        return shapes
    fitting = [[kv for kv in one if kv.tokens < model.failed_kv_tokens] for one in shapes]
    return [one for one in fitting if one] or [shapes[-1][-1:]]


def _divided(sequences: int, by: int, cells: int) -> list[KvShape]:
    shapes = []
    while sequences > 1:
        shapes.append(KvShape(sequences, cells))
        sequences //= by
    return [*shapes, KvShape(1, cells)]


def share_above(cells: int, ahead: list[int]) -> float:
    """How many of those who wait need longer slots."""
    if not ahead or max(ahead) <= cells:
        return 0.0
    return sum(one > cells for one in ahead) / len(ahead)
