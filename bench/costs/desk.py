"""`desk`: one accelerator and six models, as people have them; the same for every curve and rule.

Chosen by what users of other servers write of (peers.md), before anything was played, and not to
win: two that are used all the time and fit side by side, one that nearly fits, one that works
through batches, a rare one beside the busy ones, and one that never fits.  Popularity falls by a
power law, a load is worth the paper's 138 decode steps (papers.md, 1.4), and prompts and answers
are of all lengths.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.costs.curves import Played, Shape, play_on
from repertory.domain.events import Arrived
from repertory.domain.ladder import Rung
from repertory.domain.requests import PRIORITIES, Request
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec, NodeSpec, WeightsForm
from repertory.engines.fake import llama_like
from repertory.perf.bytes import most_layers, share_there
from repertory.policy.places.offload import Rule

__all__ = ["LOADS", "MODELS", "ROOM", "STEPS_PER_LOAD", "Result", "Use", "played", "result"]


@dataclass(frozen=True, slots=True)
class Use:
    """One of the models, and what it is asked for."""

    name: str
    size: float
    """Of the accelerator's memory."""
    priority: str
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]


MODELS = (
    Use("chat", 0.5, "interactive", (64, 256, 1024), (32, 96, 192)),
    Use("code", 0.3, "interactive", (128, 512), (16, 32)),
    Use("nearly", 1.15, "interactive", (64, 256), (32, 96, 192)),
    Use("writer", 0.7, "batch", (32, 128), (128, 256, 384)),
    Use("rare", 0.6, "interactive", (64, 256), (32, 96)),
    Use("never", 1.8, "interactive", (64, 256), (32, 96)),
)
"""By falling popularity: the n-th is asked for 1/n as often as the first."""
STEPS_PER_LOAD = 138
"""Of the same model: what a load is worth in the paper."""
ROOM = 1.6
"""Of a curve's own model, what the accelerator holds."""
LOADS = (0.15, 0.3, 0.45)
"""How busy the accelerator would be if all of them were on it."""
REQUESTS = 150
_PATIENCE = {"interactive": 3.0, "batch": 10.0}
"""In time: so many times what an answer takes that has everything to itself, and loads first."""


def dear(shape: Shape) -> Shape:
    """The same curve with loads worth as much as the paper's."""
    return replace(shape, load_s=STEPS_PER_LOAD * shape.step_s)


def specs(shape: Shape) -> list[ModelSpec]:
    found = []
    for use in MODELS:
        times = use.size * ROOM
        found.append(
            replace(
                shape.spec(use.name),
                weights_bytes=round(times * shape.weights_bytes),
                head_bytes=round(times * shape.head_bytes),
                kv_bytes_per_token=round(times * shape.kv_bytes_per_token),
                buffers_bytes=shape.weights_bytes // 32,
            )
        )
    return found


def node(shape: Shape) -> NodeSpec:
    """Main memory for all of them."""
    all_bytes = sum(one.weights_bytes for one in specs(shape))
    return llama_like(
        (
            DeviceSpec("cpu0", 2 * all_bytes, cores=2),
            DeviceSpec("gpu0", round(ROOM * shape.weights_bytes), backend="fake"),
        )
    )


def trace(shape: Shape, seed: int, load: float) -> list[Arrived]:
    luck = random.Random(seed)
    weights = [1.0 / rank for rank in range(1, len(MODELS) + 1)]
    wishes = []
    for count in range(REQUESTS):
        (use,) = luck.choices(MODELS, weights)
        prompt, output = luck.choice(use.prompts), luck.choice(use.outputs)
        wishes.append(Request(f"r{count:04d}", use.name, prompt, output, PRIORITIES[use.priority]))
    sizes = {use.name: use.size * ROOM for use in MODELS}
    each_s = [sizes[one.model] * shape.alone_s(one.prompt_tokens, one.max_tokens) for one in wishes]
    mean_s = sum(each_s) / len(wishes)
    at_s, arrivals = 0.0, []
    for one in wishes:
        at_s += luck.expovariate(load / mean_s)
        arrivals.append(Arrived(round(at_s * 1e9), one))
    return arrivals


def limits_s(shape: Shape, arrivals: Sequence[Arrived]) -> dict[str, float]:
    """By request.  What never fits is measured by what it takes with all the layers that do."""
    by_name = {one.name: one for one in specs(shape)}
    device = node(shape).devices[1]
    limits = {}
    for arrived in arrivals:
        one = arrived.request
        spec, use = by_name[one.model], next(use for use in MODELS if use.name == one.model)
        profile = shape.profile(spec, device)
        cells = KvShape(1, 2048)
        most = most_layers(spec, cells, device.memory_bytes, spec.buffers_bytes)
        share = share_there(spec, most)
        form = WeightsForm.PLAIN
        alone_s = profile.prefill_s(form, one.prompt_tokens, 0, share)
        alone_s += one.max_tokens * profile.decode_s(form, 1, 0, share)
        load_s = profile.load_s(form, Rung.HOST, spec.weights_bytes, share)
        limits[one.id] = _PATIENCE[use.priority] * (alone_s + load_s)
    return limits


@dataclass(frozen=True, slots=True)
class Result:
    """Of one rule on one trace."""

    goodput: float
    """Tokens a second, of answers that were complete in time."""
    late: dict[str, tuple[int, int]]
    """By model: how many answers were not, of how many."""
    answer_s: float
    """Until an answer was complete, by the weight of those who asked."""


def result(shape: Shape, rule: Rule, seed: int, load: float) -> Result:
    found, arrivals = played(shape, rule, seed, load)
    limits = limits_s(dear(shape), arrivals)
    good, late = 0, {use.name: (0, 0) for use in MODELS}
    for arrived in arrivals:
        one = arrived.request
        is_late = (found.ended_ns[one.id] - arrived.at_ns) / 1e9 > limits[one.id]
        missed, all_ = late[one.model]
        late[one.model] = missed + is_late, all_ + 1
        good += 0 if is_late else one.max_tokens
    asked = [one.request for one in arrivals]
    waited_s = sum(
        one.request.weight * (found.ended_ns[one.request.id] - one.at_ns) / 1e9 for one in arrivals
    )
    goodput = good / (max(found.ended_ns.values()) / 1e9)
    return Result(goodput, late, waited_s / sum(one.weight for one in asked))


def played(shape: Shape, rule: Rule, seed: int, load: float) -> tuple[Played, list[Arrived]]:
    shape = dear(shape)
    arrivals = trace(shape, seed, load)
    return play_on(node(shape), specs(shape), shape.profile, rule, arrivals), arrivals
