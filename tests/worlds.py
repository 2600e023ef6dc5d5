"""Small worlds for tests: devices, models, workloads, and faults by a seed."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from repertory.domain.actions import Activate, Load, Transition
from repertory.domain.events import Arrived, Cancelled, Event, OperatorAsked, Wish, order
from repertory.domain.requests import Fault, Request
from repertory.domain.settings import Settings
from repertory.domain.specs import DeviceSpec, ModelSpec, NodeSpec
from repertory.engines.fake import llama_like, vllm_like
from repertory.engines.node_model import Failure

GIB = 1 << 30
MIB = 1 << 20


def model(name: str, weights_bytes: int = GIB, **changes: object) -> ModelSpec:
    fields: dict[str, object] = {
        "name": name,
        "digest": f"digest-of-{name}",
        "location": f"{name}.gguf",
        "weights_bytes": weights_bytes,
        "layers": 16,
        "kv_bytes_per_token": 32768,
        "context_tokens": 4096,
        "buffers_bytes": 32 * MIB,
        "max_sequences": 8,
    }
    return ModelSpec(**(fields | changes))  # type: ignore[arg-type]  # test data


@dataclass(frozen=True)
class World:
    """Devices and models."""

    node: NodeSpec
    models: tuple[ModelSpec, ...]
    settings: Settings = field(default_factory=Settings)


def llama_world(models: int = 4, memory_gib: float = 2.6, devices: int = 1) -> World:
    specs = tuple(DeviceSpec(f"dev{at}", round(memory_gib * GIB), cores=2) for at in range(devices))
    return World(llama_like(specs), tuple(model(name) for name in "abcdefghij"[:models]))


def vllm_world() -> World:
    """Two devices; `a` spans both, the others live on one; the host holds two sleepers."""
    specs = (DeviceSpec("dev0", 3 * GIB), DeviceSpec("dev1", 4 * GIB))
    node = vllm_like(specs, host_memory_bytes=2 * GIB, asleep_residue_bytes=96 * MIB)
    models = (
        model("a", 2 * GIB, devices_per_replica=2),
        model("b", GIB),
        model("c", GIB + 512 * MIB),
        model("d", GIB // 2),
    )
    return World(node, models)


def split_world() -> World:
    """A llama-like node with a replica on [dev0, dev1] beside others on [dev1]."""
    specs = (DeviceSpec("dev0", 2 * GIB, cores=1), DeviceSpec("dev1", 3 * GIB, cores=1))
    models = (
        model("a", 2 * GIB, devices_per_replica=2),
        model("b", GIB),
        model("c", GIB, ttl_s=3.0),
    )
    return World(llama_like(specs), models)


def offload_world() -> World:
    """An accelerator beside main memory; `b` fits neither whole, and on both together."""
    specs = (DeviceSpec("cpu0", 2 * GIB, cores=2), DeviceSpec("gpu0", GIB, backend="fake"))
    parts = {"head_bytes": 64 * MIB, "kept_bytes": 48 * MIB, "handle_bytes": 8 * MIB}
    models = (
        model("a", GIB // 2, **parts),
        model("b", 2 * GIB + 128 * MIB, layers=32, **parts),
        model("c", GIB - 64 * MIB, ttl_s=3.0, **parts),
        model("d", GIB + 256 * MIB, head_bytes=48 * MIB, layers_bytes=GIB + 208 * MIB),
    )
    return World(llama_like(specs), models)


def accelerator_world() -> World:
    """An accelerator and nothing beside it: runs of many short steps, and who waits in them."""
    specs = (DeviceSpec("gpu0", round(2.6 * GIB), backend="fake"),)
    return World(llama_like(specs), tuple(model(name) for name in "abcd"))


def twin_world() -> World:
    """Two equal sets of cores: a model may have a replica on each."""
    return llama_world(models=3, memory_gib=2.2, devices=2)


WORLDS: dict[str, Callable[[], World]] = {
    "llama": llama_world,
    "vllm": vllm_world,
    "split": split_world,
    "offload": offload_world,
    "accelerator": accelerator_world,
    "twin": twin_world,
}


def workload(world: World, seed: int, requests: int, per_s: float = 2.0) -> list[Event]:
    """Random arrivals with ties, cancels and operators' wishes."""
    rng = random.Random(seed)
    events: list[Event] = []
    at_ns = 0
    names = [spec.name for spec in world.models]
    for count in range(requests):
        at_ns += rng.choice([0, 0, 1, 1, 2, 5]) * round(1e9 / per_s / 2)
        prompt = rng.choice([8, 96, 96, 700, 1500])
        longest = min(spec.context_tokens for spec in world.models) - prompt
        request = Request(
            f"r{count:05d}",
            rng.choices(names, [2.0**-at for at in range(len(names))])[0],
            prompt,
            min(longest, rng.choice([1, 16, 32, 128])),
            rng.choice([1.0, 1.0, 0.25]),
        )
        events.append(Arrived(at_ns, request))
        if rng.random() < 0.08:
            later_ns = rng.choice([0, 1, 100_000_000, 1_500_000_000])
            events.append(Cancelled(at_ns + later_ns, request.id))
        if rng.random() < 0.03:
            wish = rng.choice([Wish.LOAD, Wish.UNLOAD, Wish.UNPIN])
            events.append(OperatorAsked(at_ns, rng.choice(names), wish))
    return sorted(events, key=order)


def faults(seed: int, share: float) -> Callable[[Transition], Failure | None]:
    """Some loads and activations fail, by action id: the same ones under every driver."""

    def fail(transition: Transition) -> Failure | None:
        luck = random.Random(f"{seed}/{transition.action_id}")
        if not isinstance(transition, (Load, Activate)) or luck.random() >= share:
            return None
        fault = Fault.OUT_OF_MEMORY if luck.random() < 0.5 else Fault.ENGINE
        return Failure("drawn by the test", fault)

    return fail


def arrivals_of(events: list[Event]) -> Iterator[Arrived]:
    return (event for event in events if isinstance(event, Arrived))
