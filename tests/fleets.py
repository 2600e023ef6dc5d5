"""Small fleets for tests of the simulator."""

from dataclasses import replace

from repertory.domain.fleets import Fleet, Gpu, Machine
from repertory.domain.specs import DeviceSpec, ModelSpec
from repertory.domain.workloads import Arrival
from repertory.engines.fake import llama_like, vllm_like
from worlds import GIB, MIB, model

GPU = Gpu("tiny", 24 * GIB, 1e12, 200e12, 32e9)
SPEC = model("m", 20 * 10**9)


def machine(name: str = "box", devices: int = 2, *, is_vllm: bool = False) -> Machine:
    """GPUs of 24 GiB with a link of 32 GB/s each, behind a disk of 10 GB/s."""
    found = [DeviceSpec(f"{name}/gpu{at}", 22 * GIB, backend="cuda") for at in range(devices)]
    node = vllm_like(found, name, 64 * GIB) if is_vllm else llama_like(found, name)
    node = replace(node, capabilities=replace(node.capabilities, partial_layers=False))
    return Machine(
        node=node,
        gpus={device.id: GPU for device in found},
        disk_bytes_per_s=10e9,
        bus_bytes_per_s=48e9,
        cache_bytes=64 * GIB,
        chunk_tokens=512,
    )


MACHINE = machine()


def fleet(*machines: Machine, models: int = 4) -> Fleet:
    """Each model takes 9 GiB: two fit on a device beside their KV memory, not three."""
    specs: tuple[ModelSpec, ...] = tuple(
        model(f"m{at}", 9 * GIB, buffers_bytes=64 * MIB, max_sequences=16) for at in range(models)
    )
    return Fleet("test", machines or (MACHINE,), specs)


def every(gap_s: float, count: int, models: int = 4) -> list[Arrival]:
    """Requests for the models in turn."""
    return [
        Arrival(at * gap_s, f"m{at * 7 % models}", 100 + 37 * at % 900, 1 + 13 * at % 90)
        for at in range(count)
    ]
