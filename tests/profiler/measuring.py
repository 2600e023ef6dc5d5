"""The profiler on fake engines: what they are, and how a whole model is measured."""

from collections.abc import Callable
from pathlib import Path

from repertory.domain.readings import Identity
from repertory.domain.specs import DeviceSpec, ModelSpec, NodeSpec
from repertory.engines.fake import FakeEngine, llama_like
from repertory.perf.profiles import Law, Profile, StepLaw, prior_profile, straight
from repertory.profiler.campaign import Campaign, CoreTime, Ended, begun
from repertory.profiler.plan import Points, items_for
from repertory.profiler.stand import opened
from repertory.profiler.subjects import Subject
from repertory.testing.clock import VirtualLoop, run_virtual
from worlds import GIB, MIB, model

__all__ = ["FEW", "HERE", "NODE", "ONE", "TWO", "known_profile", "measured"]

CORES = DeviceSpec("cpu0", 8 * GIB, cores=2)
CARD = DeviceSpec("gpu0", 8 * GIB, backend="fake")
NODE = llama_like([CORES, CARD])
ONE = Subject(model("one", GIB, repacked_bytes=GIB // 2, head_bytes=GIB // 8), 256)
TWO = Subject(model("two", 300 * MIB), 256)
HERE = Identity("digest-of-one", "a build", "a machine")
FEW = Points(
    lengths=(50, 300, 500, 1000),
    shares_percent=(0, 50, 100),
    interruptions=(200,),
    batches=((1, 64), (2, 64), (8, 64), (1, 1000), (2, 1000)),
    kv_tokens=(256,),
    contexts=((1, 256), (4, 2048)),
    resizes=((256, 1024),),
)


def known_profile(spec: ModelSpec, device: DeviceSpec) -> Profile:
    """Laws with numbers of their own, so that none is mixed up with another, or with the prior."""
    prior = prior_profile(spec, device)
    weight = spec.weights_bytes / GIB
    speed = 1.0 if device.cores else 0.2
    return Profile(
        load={way: Law(0.01 * at, 3e-10 * at) for at, way in enumerate(prior.load, 1)},
        stage=Law(0.002, 2e-10),
        activate=Law(0.017, 5e-10),
        move_kv=Law(0.003, 2e-10),
        deactivate_s=0.006,
        unload_s=0.011,
        drop_s=0.002,
        prefill={
            form: StepLaw(straight(0.004, speed * 2e-4 * at * weight), 3e-8)
            for at, form in enumerate(prior.prefill, 1)
        },
        decode={
            form: StepLaw(straight(speed * 0.02 * at * weight, 0.003), 1e-6)
            for at, form in enumerate(prior.decode, 1)
        },
        kv_out=prior.kv_out,
        kv_in=prior.kv_in,
        beside=prior.beside,
    )


def measured(
    path: Path,
    points: Points = FEW,
    node: NodeSpec = NODE,
    room_bytes: int = 8 * GIB,
    told: Callable[[Ended], None] = lambda _: None,
    core_time: Callable[[], CoreTime] = CoreTime,
) -> Campaign:
    """Model `one`, beside `two`: from its file, if there is one, to its file."""

    async def main(_: VirtualLoop) -> Campaign:
        campaign = begun(path, ONE, HERE, items_for(ONE, [ONE, TWO], node, points))
        campaign.core_time = core_time
        engine = FakeEngine(node, known_profile)
        rooms = {device.id: room_bytes for device in node.devices}
        async with opened(engine, node, rooms) as stand:
            try:
                await campaign.run(stand, told)
            finally:
                await engine.close()
        return campaign

    return run_virtual(main)
