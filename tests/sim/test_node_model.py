"""The closed form is the step-by-step truth: one jump, or many small ones."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repertory.domain.actions import Activate, Deactivate, Drop, Load, Resize, Unload
from repertory.domain.ladder import Rung
from repertory.domain.specs import (
    DeviceSpec,
    KvShape,
    ModelSpec,
    NodeSpec,
    Placement,
    WeightsForm,
)
from repertory.engines.fake import llama_like, vllm_like
from repertory.engines.node_model import Failure, Job, NodeModel, Output, TransitionEnd
from repertory.engines.step_loop import Lane, Segment
from repertory.perf.profiles import Beside, Curve, Law, Profile, StepLaw, prior_profile
from repertory.policy.requests.share import StepKind
from worlds import GIB, model, offload_world

KV = KvShape(4, 2048)
SPECS = {name: model(name, GIB // 4) for name in "ab"}
NODES: dict[str, Callable[[], NodeSpec]] = {
    "llama": lambda: llama_like([DeviceSpec("dev0", 8 * GIB, cores=1)]),
    "two cores": lambda: llama_like([DeviceSpec("dev0", 8 * GIB, cores=2)]),
    "vllm": lambda: vllm_like([DeviceSpec("dev0", 8 * GIB)]),
}


def serving(node: NodeSpec, width: int = 1) -> tuple[NodeModel, int]:
    """Both models serve; and the time when they do."""
    worker = NodeModel(node, prior_profile, width=width)
    at_ns = 0
    for count, (name, spec) in enumerate(SPECS.items()):
        place = Placement(("dev0",))
        worker.transit(at_ns, Load(count * 2 + 1, name, name, node.id, place, Rung.DISK), spec)
        at_ns = worker.next_at_ns or at_ns
        worker.advance(at_ns)
        worker.transit(at_ns, Activate(count * 2 + 2, name, name, node.id, KV), spec)
        at_ns = worker.next_at_ns or at_ns
        worker.advance(at_ns)
    return worker, at_ns


Input = tuple[int, str, int, int]
INPUTS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 1_000_000, 50_000_000, 400_000_000, 2_000_000_000]),
        st.sampled_from(["a", "b", "cancel"]),
        st.integers(1, 900),
        st.integers(1, 60),
    ),
    max_size=12,
)


def played(node: NodeSpec, inputs: list[Input], steps: list[int]) -> list[object]:
    """What comes out when the model is advanced by `steps` between the inputs."""
    worker, now_ns = serving(node, width=2)
    out: list[object] = []
    running: dict[str, str] = {}
    jumps = iter(steps * 10_000 if steps else [])

    def go(to_ns: int) -> None:
        nonlocal now_ns
        while steps and now_ns < to_ns:
            now_ns = min(to_ns, now_ns + next(jumps, 10**12))
            out.extend(worker.advance(now_ns))
            worker.catch_up(now_ns)  # as the fake engine does, to tell of each token
        out.extend(worker.advance(to_ns))
        now_ns = to_ns
        for one in out:
            if isinstance(one, Output) and one.is_last:
                running.pop(one.generation_id, None)

    for count, (wait_ns, what, prompt, output) in enumerate(inputs):
        go(now_ns + wait_ns)
        if what == "cancel":
            victim = min(running, default=None)
            if victim is not None:
                del running[victim]
                worker.cancel(now_ns, victim)
        elif sum(one == what for one in running.values()) < KV.sequences:
            running[f"g{count}"] = what
            # Weights and deadlines by chance, so that both plays see the same ones.
            weight = (1.0, 0.1, 3.0)[(prompt + output) % 3]
            deadline_ns = now_ns + 100_000_000 if output % 2 else None
            worker.submit(now_ns, what, Job(f"g{count}", prompt, output, weight, deadline_ns))
    while (next_ns := worker.next_at_ns) is not None:
        go(next_ns)
    return out


@pytest.mark.parametrize("node", NODES)
@settings(max_examples=60, deadline=None)
@given(
    inputs=INPUTS,
    steps=st.lists(st.sampled_from([1_000_000, 7_000_001, 90_000_000]), min_size=1, max_size=4),
)
@example(inputs=[(0, "a", 1, 14), (50_000_000, "b", 2, 15)], steps=[1_000_000])
def test_one_jump_equals_many_small_ones(node: str, inputs: list[Input], steps: list[int]) -> None:
    """A newcomer's share begins where the others are, whoever looked at them before."""
    spec = NODES[node]()
    assert played(spec, inputs, []) == played(spec, inputs, steps)


@pytest.mark.parametrize("node", NODES)
def test_every_generation_ends_once_with_all_its_tokens(node: str) -> None:
    inputs = [(0, "ab"[at % 2], 700, 20) for at in range(8)]
    ends = [one for one in played(NODES[node](), inputs, []) if isinstance(one, Output)]
    assert sorted(one.generation_id for one in ends if one.is_last) == [f"g{at}" for at in range(8)]
    assert all(one.output_tokens == 20 for one in ends if one.is_last)
    assert all(one.output_tokens == 1 for one in ends if one.is_first)


def first_ns(worker: NodeModel, at_ns: int, name: str) -> int:
    """Until a generation has its first token."""
    happened = worker.advance(at_ns + 10**13)
    return next(
        one.at_ns - at_ns
        for one in happened
        if isinstance(one, Output) and one.generation_id == name and one.is_first
    )


def last_of(worker: NodeModel, at_ns: int, name: str) -> Output:
    happened = worker.advance(at_ns + 10**13)
    outputs = [one for one in happened if isinstance(one, Output)]
    return next(one for one in outputs if one.generation_id == name and one.is_last)


def test_the_prompt_of_what_weighs_more_goes_first() -> None:
    """And of equal ones the one that came first."""
    for weight, is_first in ((1.0, False), (2.0, True)):
        worker, at_ns = serving(NODES["llama"]())
        worker.submit(at_ns, "a", Job("old", 900, 5))
        worker.submit(at_ns, "a", Job("older", 900, 5))
        worker.submit(at_ns, "a", Job("new", 10, 5, weight))
        chunk_ns = first_ns(worker, at_ns, "new")
        assert (chunk_ns < 600_000_000) is is_first, chunk_ns


def test_a_heavy_prompt_of_many_chunks_waits_for_one_step_of_a_batch() -> None:
    taken: dict[float, int] = {}
    for weight in (1.0, 0.1):
        worker, at_ns = serving(NODES["llama"]())
        for count in range(3):
            worker.submit(at_ns, "a", Job(f"batch{count}", 10, 400, weight))
        worker.advance(at_ns + 1_000_000_000)
        worker.submit(at_ns + 1_000_000_000, "a", Job("new", 1500, 5))
        taken[weight] = first_ns(worker, at_ns + 1_000_000_000, "new")
    worker, at_ns = serving(NODES["llama"]())
    worker.submit(at_ns, "a", Job("new", 1500, 5))
    alone_ns = first_ns(worker, at_ns, "new")
    worker, at_ns = serving(NODES["llama"]())
    for count in range(3):
        worker.submit(at_ns, "a", Job(f"batch{count}", 10, 400))
    step_ns = last_of(worker, at_ns, "batch0").decode_ns // 399
    assert taken[1.0] >= alone_ns + 4 * step_ns, "a decode step after each chunk"
    assert taken[0.1] <= alone_ns + 2 * step_ns


def test_a_replica_has_device_time_by_the_weight_of_its_heaviest() -> None:
    worker, at_ns = serving(NODES["llama"]())
    for count in range(3):
        worker.submit(at_ns, "a", Job(f"batch{count}", 10, 2000, 0.1))
    worker.submit(at_ns, "b", Job("now", 10, 300))
    beside_ns = last_of(worker, at_ns, "now").at_ns - at_ns
    worker, at_ns = serving(NODES["llama"]())
    worker.submit(at_ns, "b", Job("now", 10, 300))
    alone_ns = last_of(worker, at_ns, "now").at_ns - at_ns
    assert 1.05 * alone_ns <= beside_ns <= 1.15 * alone_ns, "a tenth for the batches"


def test_shares_of_a_step_add_up_to_the_time_of_the_device() -> None:
    worker, at_ns = serving(NODES["llama"]())
    for count in range(4):
        worker.submit(at_ns, "a", Job(f"g{count}", 100 * count + 1, 10 * count + 5))
    happened = worker.advance(at_ns + 10**13)
    shares = [one.share_ns for one in happened if isinstance(one, Output) and one.is_last]
    assert sum(shares) / 1e9 == pytest.approx(worker.step_seconds()["a"], rel=1e-6)


def test_two_models_share_a_device_fairly_and_engines_of_their_own_do_not_wait() -> None:
    inputs: list[Input] = [(0, "a", 16, 60), (0, "b", 16, 60)]

    def last_ns(node: str) -> int:
        outs = [one for one in played(NODES[node](), inputs, []) if isinstance(one, Output)]
        return max(one.at_ns for one in outs) - serving(NODES[node]())[1]

    assert last_ns("llama") == pytest.approx(2 * last_ns("vllm"), rel=0.1)


def test_transitions_of_one_mover_wait_for_each_other() -> None:
    node = NODES["llama"]()
    worker = NodeModel(node, prior_profile)
    place = Placement(("dev0",))
    for count, (name, spec) in enumerate(SPECS.items()):
        worker.transit(0, Load(count, name, name, node.id, place, Rung.DISK), spec)
    ends = [one for one in worker.advance(10**12) if isinstance(one, TransitionEnd)]
    assert [one.transition.replica_id for one in ends] == ["a", "b"]
    assert ends[1].at_ns == ends[0].at_ns + ends[1].took_ns


def test_bytes_follow_the_ladder_and_a_failure_changes_nothing() -> None:
    node = NODES["vllm"]()
    failing = {3}
    worker = NodeModel(
        node,
        prior_profile,
        lambda one: Failure("no") if one.action_id in failing else None,
    )
    held = []
    place = Placement(("dev0",))
    for action in (
        Load(1, "a", "a", node.id, place, Rung.DISK),
        Activate(2, "a", "a", node.id, KV),
        Deactivate(3, "a", "a", node.id),
        Deactivate(4, "a", "a", node.id),
        Unload(5, "a", "a", node.id),
        Drop(6, "a", "a", node.id),
    ):
        worker.transit(worker.next_at_ns or 0, action, SPECS["a"])
        worker.advance(10**15)
        held.append(worker.device_bytes("dev0"))
    weights, serving_bytes, *_ = held
    assert held == [
        weights,
        serving_bytes,
        serving_bytes,
        weights,
        node.capabilities.asleep_residue_bytes,
        0,
    ]


def decode_ns(layers: int | None, gap: float) -> int:
    """Decode time of one generation with so many layers on the device, the CPU so much slower."""
    node, spec = NODES["llama"](), SPECS["a"]

    def profile(spec: ModelSpec, device: DeviceSpec) -> Profile:
        there = prior_profile(spec, device)
        decode = there.decode[WeightsForm.PLAIN]
        points = tuple((units, gap * seconds) for units, seconds in decode.base.points)
        slow = StepLaw(Curve(points), gap * decode.per_pair_s)
        loads = {rung: Law(0.0, 0.0) for rung in Rung}
        return replace(there, beside=Beside(slow, slow, loads))

    worker = NodeModel(node, profile)
    place = Placement(("dev0",), layers=layers)
    worker.transit(0, Load(1, "a", "a", node.id, place, Rung.DISK), spec)
    worker.advance(at_ns := worker.next_at_ns or 0)
    worker.transit(at_ns, Activate(2, "a", "a", node.id, KV), spec)
    worker.advance(at_ns := worker.next_at_ns or 0)
    worker.submit(at_ns, "a", Job("g", 10, 11))
    happened = worker.advance(at_ns + 10**12)
    return next(one.decode_ns for one in happened if isinstance(one, Output) and one.is_last)


def test_layers_left_on_the_host_slow_a_step_by_their_share() -> None:
    whole = decode_ns(None, 4.0)
    assert decode_ns(SPECS["a"].layers // 2, 4.0) == pytest.approx(2.5 * whole, rel=1e-6)
    assert decode_ns(SPECS["a"].layers // 2, 1.0) == whole


@given(
    step_ns=st.integers(1, 10**8),
    growth_ns=st.integers(0, 10**5),
    steps=st.integers(1, 5000),
    cut=st.floats(0, 1),
)
def test_growing_steps_in_closed_form_are_the_sum_of_the_single_ones(
    step_ns: int, growth_ns: int, steps: int, cut: float
) -> None:
    lane = Lane(
        "a",
        prior_profile(SPECS["a"], DeviceSpec("cpu0", GIB)),
        WeightsForm.PLAIN,
        1.0,
        KV,
        deque(),
        {},
    )
    run = Segment(lane, StepKind.DECODE, 0, step_ns, growth_ns, steps)
    ends = list(accumulate(step_ns + at * growth_ns for at in range(steps)))
    assert run.spent_ns(steps) == ends[-1]
    span_ns = round(cut * ends[-1])
    done = sum(end <= span_ns for end in ends)
    assert run.within(span_ns) == done
    run.pass_over(done)
    assert run.start_ns + run.spent_ns(run.steps) == ends[-1]


def test_a_step_takes_longer_the_more_there_is_to_look_at() -> None:
    """And what a run takes does not depend on how often somebody looks."""
    node, spec = NODES["llama"](), SPECS["a"]
    took = []
    for looks in (1, 40):
        worker = NodeModel(node, prior_profile)
        worker.transit(0, Load(1, "a", "a", node.id, Placement(("dev0",)), Rung.DISK), spec)
        worker.advance(at_ns := worker.next_at_ns or 0)
        worker.transit(at_ns, Activate(2, "a", "a", node.id, KV), spec)
        worker.advance(at_ns := worker.next_at_ns or 0)
        worker.submit(at_ns, "a", Job("g", 100, 120))
        ends = []
        for look in range(looks):
            at = at_ns + (look + 1) * 10**11 // looks
            ends += [one for one in worker.advance(at) if isinstance(one, Output)]
            worker.catch_up(at)
        took.append([(one.at_ns, one.decode_ns) for one in ends])
    assert took[0] == took[1]
    profile = prior_profile(spec, node.devices[0])
    growing_s = sum(profile.decode_s(WeightsForm.PLAIN, 1, 101 + at) for at in range(119))
    assert took[0][-1][1] == pytest.approx(growing_s * 1e9, rel=1e-5), "growth is in whole ns"


@pytest.mark.parametrize("layers", [None, 8])
def test_bytes_are_totals_whichever_of_them_a_move_has_changed(layers: int | None) -> None:
    """As a real worker reads them back: an activation and a resize tell of the weights too."""
    world = offload_world()
    node, spec = world.node, world.models[0]
    accelerated = next(one for one in node.devices if one.backend != "cpu")
    rest = next(one.id for one in node.devices if one.backend == "cpu")
    place = Placement((accelerated.id,), layers=layers, rest=rest if layers else None)
    worker, told = NodeModel(node, prior_profile), []
    for move in (
        Load(1, "r", spec.name, node.id, place, Rung.DISK),
        Activate(2, "r", spec.name, node.id, KV),
        Resize(3, "r", spec.name, node.id, KvShape(2, 512)),
        Deactivate(4, "r", spec.name, node.id),
        Unload(5, "r", spec.name, node.id),
    ):
        at_ns = worker.next_at_ns or (told[-1].at_ns if told else 0)
        worker.transit(at_ns, move, spec)
        (end,) = worker.advance(worker.next_at_ns or at_ns)
        assert isinstance(end, TransitionEnd)
        told.append(end)
    load, opened, resized, closed, gone = (one.measured for one in told)
    assert load.weights_bytes
    assert {one.weights_bytes for one in (load, opened, resized, closed)} == {load.weights_bytes}
    assert {one.rest_weights_bytes for one in (load, opened, resized, closed)} == {
        load.rest_weights_bytes
    }
    assert bool(load.rest_weights_bytes) == (layers is not None)
    assert (load.kv_bytes, load.buffers_bytes) == (closed.kv_bytes, closed.buffers_bytes) == (0, 0)
    assert opened.kv_bytes
    assert resized.kv_bytes
    assert resized.kv_bytes < opened.kv_bytes
    assert (gone.weights_bytes, gone.kv_bytes, gone.buffers_bytes) == (0, 0, 0)
