"""The closed form is the step-by-step truth: one jump, or many small ones."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.domain.actions import Activate, Deactivate, Drop, Load, Unload
from repertory.domain.ladder import Rung
from repertory.domain.specs import DeviceSpec, KvShape, NodeSpec, Placement, WeightsForm
from repertory.engines.fake import llama_like, vllm_like
from repertory.engines.node_model import Failure, Job, NodeModel, Output, TransitionEnd
from repertory.perf.profiles import prior_profile
from worlds import GIB, model

KV = KvShape(4, 2048)
SPECS = {name: model(name, GIB // 4) for name in "ab"}
NODES: dict[str, Callable[[], NodeSpec]] = {
    "llama": lambda: llama_like([DeviceSpec("dev0", 8 * GIB)]),
    "vllm": lambda: vllm_like([DeviceSpec("dev0", 8 * GIB)]),
}


def serving(node: NodeSpec) -> tuple[NodeModel, int]:
    """Both models serve; and the time when they do."""
    worker = NodeModel(node, prior_profile)
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
    worker, now_ns = serving(node)
    out: list[object] = []
    running: dict[str, str] = {}
    jumps = iter(steps * 10_000 if steps else [])

    def go(to_ns: int) -> None:
        nonlocal now_ns
        while steps and now_ns < to_ns:
            now_ns = min(to_ns, now_ns + next(jumps, 10**12))
            out.extend(worker.advance(now_ns))
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
def test_one_jump_equals_many_small_ones(node: str, inputs: list[Input], steps: list[int]) -> None:
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
    step_ns = round(prior_profile(SPECS["a"]).decode[WeightsForm.PLAIN].seconds(3) * 1e9)
    assert taken[1.0] >= alone_ns + 5 * step_ns, "a decode step after each chunk"
    assert taken[0.1] <= alone_ns + 2 * step_ns


def test_a_replica_has_device_time_by_the_weight_of_its_heaviest() -> None:
    worker, at_ns = serving(NODES["llama"]())
    for count in range(3):
        worker.submit(at_ns, "a", Job(f"batch{count}", 10, 2000, 0.1))
    worker.submit(at_ns, "b", Job("now", 10, 300))
    before = worker.step_seconds()
    happened = worker.advance(at_ns + 10**13)
    end_ns = next(
        one.at_ns
        for one in happened
        if isinstance(one, Output) and one.generation_id == "now" and one.is_last
    )
    own_ns = round(300 * prior_profile(SPECS["b"]).decode[WeightsForm.PLAIN].seconds(1) * 1e9)
    assert end_ns - at_ns <= 1.15 * own_ns, "a tenth for the batches, and their prompts"
    assert before == {"a": 0.0, "b": 0.0}


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


def decode_ns(layers: int | None, host_pace: float) -> int:
    """Decode time of one generation with so many layers on the device."""
    node, spec = NODES["llama"](), SPECS["a"]
    worker = NodeModel(node, lambda one: replace(prior_profile(one), host_pace=host_pace))
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
