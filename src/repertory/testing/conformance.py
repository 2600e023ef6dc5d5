"""The engine contract as a check that can be run: every engine passes it for what it claims.

    names = await check_engine(make_engine, spec, other_spec)

It uses nothing but the contract, so that it holds for engines without text or real tokens.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from repertory.domain.actions import Load
from repertory.domain.errors import WorkerGone
from repertory.domain.ladder import TRANSITIONS, Edge, Rung
from repertory.domain.specs import KvShape, ModelSpec, Placement
from repertory.engines.contract import (
    Engine,
    GenerationSpec,
    Sampling,
)
from repertory.testing.bench import (
    LARGE,
    PATIENCE_S,
    PROMPT,
    SMALL,
    Bench,
    Heard,
    NotConforming,
    opened,
    refused,
    require,
)
from repertory.testing.saving import check_saved
from repertory.testing.wishes import (
    check_bias,
    check_embedding,
    check_grammar,
    check_logprobs,
    check_specials,
)

__all__ = ["EngineMaker", "NotConforming", "check_engine"]

EngineMaker = Callable[[], AbstractAsyncContextManager[Engine]]
"""Opens a fresh worker; leaving the context ends it, also after `close`."""

_SLACK_BYTES = 64 << 20
"""What a process may keep after its first unload: allocator, thread pools, caches."""


async def check_engine(
    make_engine: EngineMaker, spec: ModelSpec, other_spec: ModelSpec | None = None
) -> tuple[str, ...]:
    """Check all that the engine claims; the names of the checks that applied.

    `other_spec` is a second model, for engines on which several share a device.
    """
    checks: list[Callable[[Bench], Coroutine[Any, Any, None]]] = [
        _check_capabilities,
        _check_ladder,
        _check_illegal_transitions,
        _check_unknown_names,
        _check_generations,
        _check_randomness,
        _check_cancel,
        _check_hold,
        _check_hold_in_company,
        _check_resume,
        _check_preempt,
        check_saved,
        _check_resize,
        _check_sharing,
        _check_layers,
        _check_stats,
        check_logprobs,
        check_bias,
        check_grammar,
        check_specials,
        check_embedding,
    ]
    passed: list[str] = []
    for check in checks:
        async with make_engine() as engine, opened(engine, spec, other_spec) as bench:
            if _applies(check, bench):
                await check(bench)
                passed.append(check.__name__.removeprefix("_").removeprefix("check_"))
    async with make_engine() as engine:
        await _check_close(engine)
    return (*passed, "close")


def _applies(check: Callable[..., object], bench: Bench) -> bool:
    if check is _check_resize:
        return bench.node.capabilities.kv_resizable
    if check is _check_layers:
        return bench.node.capabilities.partial_layers
    if check is _check_sharing:
        return bench.node.capabilities.step_sharing and bench.other_spec is not None
    return True


async def _check_capabilities(bench: Bench) -> None:
    """The edges are legal, and a replica can come up and go down again."""
    capabilities = bench.node.capabilities
    require(bool(bench.node.devices), "a node without devices")
    require(capabilities.edges <= TRANSITIONS.keys(), "edges that the ladder does not have")
    for rung, edge in ((Rung.DISK, Edge.LOAD), (Rung.DEVICE, Edge.ACTIVATE)):
        require((rung, edge) in capabilities.edges, f"no edge {edge.value} from {rung.value}")
    resizes = (Rung.SERVING, Edge.RESIZE) in capabilities.edges
    require(resizes == capabilities.kv_resizable, "kv_resizable and the edges disagree")
    require(capabilities.max_devices_per_replica >= 1, "a replica needs a device")


async def _check_ladder(bench: Bench) -> None:
    """Every edge it claims is walked and measured; what was taken comes back."""
    before = await bench.engine.stats()
    if bench.can(Rung.DISK, Edge.STAGE):
        await bench.walk(Edge.STAGE, "r1")
    for turn in range(2):  # the second load starts from HOST where the engine has that rung
        loaded = await bench.walk(Edge.LOAD, "r1")
        require(loaded.source in (None, Rung.DISK, Rung.HOST), "a load from nowhere")
        require(loaded.weights_bytes is None or loaded.weights_bytes > 0, "weights of no bytes")
        serving = await bench.walk(Edge.ACTIVATE, "r1")
        require(serving.kv_bytes is None or serving.kv_bytes > 0, "KV memory of no bytes")
        if bench.can(Rung.SERVING, Edge.RESIZE):
            await bench.walk(Edge.RESIZE, "r1", LARGE)
        if bench.can(Rung.SERVING, Edge.DEACTIVATE):
            resting = await bench.walk(Edge.DEACTIVATE, "r1")
            require(not resting.kv_bytes, "KV memory stays after deactivate")
        if not bench.can(Rung.DEVICE, Edge.UNLOAD):
            return
        gone = await bench.walk(Edge.UNLOAD, "r1")
        residue = bench.node.capabilities.asleep_residue_bytes
        require((gone.weights_bytes or 0) <= residue, "weights stay after unload")
        require(not gone.kv_bytes, "KV memory stays after unload")
        if turn == 0 and not bench.can(Rung.HOST, Edge.LOAD):
            break
    after = await bench.engine.stats()
    residue = bench.node.capabilities.asleep_residue_bytes * bench.spec.devices_per_replica
    most = before.pss_bytes + residue + _SLACK_BYTES
    require(after.pss_bytes <= most, f"{after.pss_bytes} bytes after unload, {most} expected")
    if bench.can(Rung.HOST, Edge.DROP):
        await bench.walk(Edge.DROP, "r1")
        await bench.walk(Edge.LOAD, "r1")


async def _check_illegal_transitions(bench: Bench) -> None:
    """What the ladder does not allow is refused and leaves the rung."""
    await refused(bench.walk(Edge.ACTIVATE, "r1"), "activate from disk")
    await bench.walk(Edge.LOAD, "r1")
    await refused(bench.walk(Edge.LOAD, "r1"), "load of a loaded replica")
    await refused(bench.walk(Edge.DEACTIVATE, "r1"), "deactivate without KV")
    await bench.walk(Edge.ACTIVATE, "r1", bench.roomy)
    for edge in (Edge.LOAD, Edge.ACTIVATE, Edge.UNLOAD):
        await refused(bench.walk(edge, "r1"), f"{edge.value} of a serving replica")
    await bench.run("r1", "still serving")
    await bench.submit("r1", "busy", bench.long_tokens)
    if bench.can(Rung.SERVING, Edge.DEACTIVATE):
        await refused(bench.walk(Edge.DEACTIVATE, "r1"), "deactivate of a busy replica")
    tokens = (await bench.end_of("busy")).tokens
    require(len(tokens) == bench.long_tokens, "a refusal hurt a generation")


async def _check_unknown_names(bench: Bench) -> None:
    await refused(bench.submit("nobody", "g", 4), "submit to an unknown replica")
    for edge in (Edge.ACTIVATE, Edge.DEACTIVATE, Edge.UNLOAD):
        await refused(bench.walk(edge, "nobody"), f"{edge.value} of an unknown replica")
    await bench.engine.cancel("nothing")
    await bench.walk(Edge.LOAD, "r1")
    await refused(bench.submit("r1", "g", 4), "submit to a replica without KV")
    nowhere = Load(999, "r2", bench.spec.name, bench.node.id, Placement(("nowhere",)), Rung.DISK)
    await refused(bench.engine.load(nowhere, bench.spec), "load to an unknown device")
    await bench.walk(Edge.ACTIVATE, "r1")
    too_long = replace(GenerationSpec("long", PROMPT, SMALL.cells, Sampling()), ignore_eos=True)
    await refused(bench.engine.submit("r1", too_long), "a generation longer than its slot")


async def _check_generations(bench: Bench) -> None:
    """As many as there are slots, of different lengths; each ends once, at its length."""
    await bench.serve("r1")
    lengths = {f"g{n}": 5 + 9 * n for n in range(SMALL.sequences)}
    for name, length in lengths.items():
        await bench.submit("r1", name, length)
    for name, length in lengths.items():
        heard = await bench.end_of(name)
        require(len(heard.tokens) == length, f"{name}: {len(heard.tokens)} of {length} tokens")
        require(heard.compute_ns > 0, f"{name} took part in no compute")
    await bench.run("r1", "after", 1)
    ends = Counter({name: heard.ends for name, heard in bench.heard.items()})
    require(set(ends.values()) == {1}, f"ends: {dict(ends)}")


async def _check_randomness(bench: Bench) -> None:
    """The same prompt and seed make the same tokens, whatever ran before."""
    await bench.serve("r1")
    first = await bench.run("r1", "first", seed=7)
    await bench.run("r1", "between", seed=8)
    again = await bench.run("r1", "again", seed=7)
    require(first == again, "the same seed made other tokens")


async def _check_cancel(bench: Bench) -> None:
    """A cancelled generation stops, frees its slot, and disturbs nobody."""
    await bench.serve("r1", bench.roomy)
    await bench.submit("r1", "g0", bench.long_tokens)
    others = [f"g{n}" for n in range(1, bench.roomy.sequences)]
    for name in others:
        await bench.submit("r1", name, 40)
    await bench.reach("g0", 1)
    await bench.engine.cancel("g0")
    heard = len(bench.heard["g0"].tokens)
    await bench.run("r1", "next", 40)
    require(len(bench.heard["g0"].tokens) <= heard + 1, "a cancelled generation goes on")
    require(bench.heard["g0"].ends == 0, "a cancelled generation ended by itself")
    await bench.engine.cancel("g0")
    for name in others:
        require(len((await bench.end_of(name)).tokens) == 40, f"cancel disturbed {name}")


async def _check_hold(bench: Bench) -> None:
    """What is held takes part in no step, then goes on as if nothing had been.

    Token for token in mode `exact`; else attention over a long context may be split by threads,
    and how many there are depends on what else the machine does.
    """
    await bench.serve("r1", bench.roomy)
    whole = await bench.run("r1", "whole", bench.long_tokens)
    await bench.submit("r1", "alone", bench.long_tokens)
    await bench.reach("alone", 1)
    await bench.engine.hold("alone", True)
    steps = (await bench.engine.stats()).steps
    await bench.engine.tokenize(bench.spec.location, "something else")
    require((await bench.engine.stats()).steps == steps, "steps, although all there is is held")
    await bench.engine.hold("alone", False)
    tokens = (await bench.end_of("alone")).tokens
    require(len(tokens) == len(whole), "holding lost tokens")
    if bench.node.capabilities.exact_resume:
        require(tokens == whole, "holding changed the tokens")
    for name in ("alone", "nothing"):
        await bench.engine.hold(name, True)


async def _check_hold_in_company(bench: Bench) -> None:
    """What is held stands still while others run, through a resize too, and may be cancelled."""
    is_exact = bench.node.capabilities.exact_resume
    await bench.serve("r1", bench.roomy)
    whole = await bench.run("r1", "whole", bench.long_tokens) if is_exact else []
    kept = {"begun": bench.long_tokens, "new": 40, "left": 40}
    await bench.submit("r1", "begun", kept["begun"])
    await bench.reach("begun", 3)
    await bench.engine.hold("begun", True)
    for name in ("new", "left"):  # in one breath: a hold must find what was submitted before it
        submitted = bench.submit("r1", name, kept[name])
        await asyncio.gather(submitted, bench.engine.hold(name, True))
    await bench.run("r1", "marker", 1)  # what came before the holds took effect is heard by now
    still = {name: len(bench.heard.get(name, Heard()).tokens) for name in kept}
    await bench.run("r1", "other", 40)
    if bench.node.capabilities.kv_resizable:
        await bench.walk(Edge.RESIZE, "r1", replace(bench.roomy, sequences=2 * SMALL.sequences))
        await bench.run("r1", "another", 40)
    for name, count in still.items():
        heard = bench.heard.get(name, Heard())
        require(len(heard.tokens) == count < kept[name], f"{name} goes on although it is held")
    if bench.can(Rung.SERVING, Edge.DEACTIVATE):
        await refused(bench.walk(Edge.DEACTIVATE, "r1"), "deactivate while generations are held")
    await bench.engine.cancel("left")
    for name in kept:
        await bench.engine.hold(name, False)
    for name in ("begun", "new"):
        tokens = (await bench.end_of(name)).tokens
        require(len(tokens) == kept[name], f"{name}: {len(tokens)} of {kept[name]} tokens")
        if is_exact:
            require(tokens == whole[: kept[name]], f"holding changed the tokens of {name}")
    await bench.run("r1", "after", 40)
    require(len(bench.heard.get("left", Heard()).tokens) == still["left"], "cancelled, and goes on")


async def _check_resume(bench: Bench) -> None:
    """From what it has made so far a generation goes on, on a replica that knows nothing of it."""
    await bench.serve("r1", bench.roomy)
    whole = await bench.run("r1", "whole", bench.long_tokens)
    text = bench.heard["whole"].text
    if bench.can(Rung.SERVING, Edge.DEACTIVATE):
        await bench.walk(Edge.DEACTIVATE, "r1")
        await bench.walk(Edge.ACTIVATE, "r1", bench.roomy)
    splits = {f"after {n}": n for n in (1, len(whole) // 2, len(whole) - 1)}
    for name, made in splits.items():
        await bench.submit("r1", name, bench.long_tokens, emitted=tuple(whole[:made]))
    for name, made in splits.items():
        tokens = (await bench.end_of(name)).tokens
        require(len(tokens) == len(whole) - made, f"{len(tokens)} tokens {name}")
        if bench.node.capabilities.exact_resume:
            require(tokens == whole[made:], f"other tokens {name}")
            require(text.endswith(bench.heard[name].text), f"another text {name}")
    complete = bench.submit("r1", "complete", bench.long_tokens, emitted=tuple(whole))
    await refused(complete, "a generation that has made all of its tokens")


async def _check_preempt(bench: Bench) -> None:
    """A preempted generation frees its slot at the next step, and goes on with what it has made."""
    await bench.serve("r1", replace(bench.roomy, sequences=1))
    whole = await bench.run("r1", "whole", bench.long_tokens)
    await bench.submit("r1", "g", bench.long_tokens)
    await bench.reach("g", 3)
    await bench.engine.preempt("g")
    await bench.until(lambda: bench.heard["g"].is_preempted, "word that g is preempted")
    made = bench.heard.pop("g").tokens
    require(3 <= len(made) < bench.long_tokens, f"{len(made)} tokens before a preemption")
    await bench.run("r1", "other", 40)
    require("g" not in bench.heard, "a preempted generation goes on")
    await bench.submit("r1", "g", bench.long_tokens, emitted=tuple(made))
    rest = (await bench.end_of("g")).tokens
    require(len(made) + len(rest) == bench.long_tokens, "a preemption changed the length")
    if bench.node.capabilities.exact_resume:
        require(made + rest == whole, "a preemption changed the tokens")
    for name in ("g", "nothing"):
        await bench.engine.preempt(name)
    await bench.run("r1", "after", 1)
    require(bench.heard["g"].ends == 1, "an ended generation was preempted")


async def _check_resize(bench: Bench) -> None:
    """Running generations move along; a shape they do not fit into is refused."""
    await bench.serve("r1", bench.roomy)
    whole = await bench.run("r1", "whole", bench.long_tokens)
    for name in ("a", "b"):
        await bench.submit("r1", name, bench.long_tokens)
    await bench.reach("b", 3)
    await refused(bench.walk(Edge.RESIZE, "r1", KvShape(1, 256)), "a resize below what runs")
    await bench.walk(Edge.RESIZE, "r1", replace(bench.roomy, sequences=2 * SMALL.sequences))
    for name in ("a", "b"):
        moved = (await bench.end_of(name)).tokens
        require(len(moved) == bench.long_tokens, "a resize changed a generation's length")
        if bench.node.capabilities.exact_resume:
            require(moved == whole, "other tokens after a resize")
    await bench.walk(Edge.RESIZE, "r1", SMALL)
    await bench.run("r1", "after")


async def _check_sharing(bench: Bench) -> None:
    """A short generation of one model ends while a long one of another model runs."""
    if bench.other_spec is None:
        return
    await bench.serve("r1", bench.roomy)
    await bench.serve("r2", spec=bench.other_spec)
    await bench.submit("r1", "long", bench.long_tokens)
    await bench.reach("long", 1)
    await bench.run("r2", "short", 4)
    require(bench.heard["long"].ends == 0, "the short one waited for the long one")
    await bench.end_of("long")


async def _check_layers(bench: Bench) -> None:
    """k of n layers take fewer bytes of the device, and serve; more than there are is refused."""
    devices = sorted(bench.node.devices, key=lambda one: one.backend == "cpu")
    where = tuple(one.id for one in devices)[: bench.spec.devices_per_replica]

    async def load(replica: str, layers: int | None) -> int:
        bench.actions += 1
        head = (bench.actions, replica, bench.spec.name, bench.node.id)
        placement = Placement(where, layers=layers)
        loaded = await bench.engine.load(Load(*head, placement, Rung.DISK), bench.spec)
        require(loaded.weights_bytes is not None, "a partial load whose bytes are not read back")
        return loaded.weights_bytes or 0

    whole = await load("whole", None)
    part = await load("part", bench.spec.layers // 2)
    require(0 < part < whole, f"half the layers take {part} bytes, all take {whole}")
    await bench.walk(Edge.ACTIVATE, "part")
    require(len(await bench.run("part", "p1")) == 12, "a partial replica does not serve")
    await refused(load("beyond", bench.spec.layers + 1), "a load of more layers than there are")


async def _check_stats(bench: Bench) -> None:
    await bench.serve("r1")
    await bench.run("r1", "g")
    stats = await bench.engine.stats()
    cores = sum(one.cores for one in bench.node.devices)
    require(stats.pss_bytes >= 0 and stats.overhead_bytes >= 0, "negative memory")
    accelerators = sum(one.cores == 0 for one in bench.node.devices)
    require(stats.compute_threads <= cores + accelerators, "more threads than cores")
    require(stats.steps > 0, "no steps counted")
    require(stats.step_seconds.get("r1", 0.0) > 0.0, "no step time for a replica that ran")


async def _check_close(engine: Engine) -> None:
    """`outputs` ends, and calls say that the worker is gone."""
    frames = aiter(engine.outputs())
    ended = asyncio.ensure_future(anext(frames, None))
    await engine.probe()
    await engine.close()
    async with asyncio.timeout(PATIENCE_S):
        require(await ended is None, "frames after close")
    with contextlib.suppress(WorkerGone):
        await engine.probe()
        raise NotConforming("a call after close was answered")
