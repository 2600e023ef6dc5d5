"""The contract of `engines.contract` without an engine: durations from `perf`, tokens by hash.

Two personalities: *llama-like* (KV resizable, many models under one step loop, `HOST` is the page
cache) and *vLLM-like* (all or nothing, `HOST` only after having been on the device, KV fixed at
start, bytes that stay while asleep, tensor parallel, one step loop per replica).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from msgspec import structs

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
from repertory.domain.errors import BadRequest, EngineError, WorkerGone, engine_error
from repertory.domain.events import Measured
from repertory.domain.ladder import TRANSITIONS, Edge, Rung, destination
from repertory.domain.specs import Capabilities, DeviceSpec, ModelSpec, NodeSpec
from repertory.engines.contract import (
    Frame,
    GenerationSpec,
    GrammarKind,
    ModelDescription,
    TokenStep,
    WorkerStats,
)
from repertory.engines.fake_words import (
    Planned,
    embedding_of,
    grammar_of,
    planned_of,
    words_of,
)
from repertory.engines.grammar import check_followable, gbnf_of
from repertory.engines.node_model import Failure, Job, NodeModel, Output, TransitionEnd
from repertory.perf.profiles import Profile, prior_profile

__all__ = ["FakeEngine", "llama_like", "vllm_like"]

_GIB = 1 << 30
_FRAME_NS = 50_000_000
"""How often running generations are heard of, at least."""


def llama_like(devices: Sequence[DeviceSpec], node_id: str = "node0") -> NodeSpec:
    """The capabilities of the embedded llama.cpp worker."""
    return NodeSpec(
        id=node_id,
        devices=tuple(devices),
        host_memory_bytes=0,
        capabilities=Capabilities(
            edges=frozenset(TRANSITIONS),
            partial_layers=True,
            kv_resizable=True,
            max_devices_per_replica=2,
            step_sharing=True,
            host_is_page_cache=True,
            asleep_residue_bytes=0,
            exact_resume=True,
        ),
    )


def vllm_like(
    devices: Sequence[DeviceSpec],
    node_id: str = "node0",
    host_memory_bytes: int = 64 * _GIB,
    asleep_residue_bytes: int = _GIB // 2,
) -> NodeSpec:
    """The capabilities of vLLM engines with sleep mode."""
    never = {(Rung.DISK, Edge.STAGE), (Rung.SERVING, Edge.RESIZE)}
    return NodeSpec(
        id=node_id,
        devices=tuple(devices),
        host_memory_bytes=host_memory_bytes,
        capabilities=Capabilities(
            edges=frozenset(TRANSITIONS.keys() - never),
            partial_layers=False,
            kv_resizable=False,
            max_devices_per_replica=8,
            step_sharing=False,
            host_is_page_cache=False,
            asleep_residue_bytes=asleep_residue_bytes,
            exact_resume=False,
        ),
    )


class FakeEngine:
    """A worker whose work takes the time of a `NodeModel` on the running loop's clock."""

    def __init__(
        self,
        node: NodeSpec,
        profile: Callable[[ModelSpec, DeviceSpec], Profile] = prior_profile,
        fail: Callable[[Transition], Failure | None] = lambda _: None,
        width: int = 1,
    ) -> None:
        """`width`: how many models step at once on two cores."""
        self._node = node
        self._model = NodeModel(node, profile, fail, width=width)
        self._moves: dict[int, asyncio.Future[TransitionEnd]] = {}
        self._generations: dict[str, Planned] = {}
        self._sent: dict[str, int] = {}
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._steps = 0
        self._is_closed = False

    async def probe(self) -> NodeSpec:
        self._refuse_closed()
        return self._node

    async def describe(self, location: str) -> ModelDescription:
        return ModelDescription(
            digest=hashlib.sha256(location.encode()).hexdigest(),
            architecture="fake",
            weights_bytes=_GIB,
            repacked_bytes=0,
            layers=16,
            kv_bytes_per_token=32768,
            trained_context_tokens=8192,
            vocabulary_tokens=256,
            buffers_bytes=64 << 20,
            chat_template="{{ messages }}",
        )

    async def render(
        self, location: str, messages: Sequence[Mapping[str, Any]], **extra: Any
    ) -> tuple[int, ...]:
        text = "".join(f"{one.get('role')}: {one.get('content')}\n" for one in messages)
        return await self.tokenize(location, text)

    async def tokenize(self, location: str, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    async def detokenize(self, location: str, tokens: Sequence[int]) -> str:
        if any(not 0 <= token < 256 for token in tokens):
            raise BadRequest("a token is a byte here", "tokens")
        return bytes(tokens).decode("utf-8", "replace")

    async def grammar(self, location: str, kind: GrammarKind, text: str) -> str:
        gbnf = gbnf_of(kind, text)
        check_followable(grammar_of(gbnf))
        return gbnf

    async def stage(self, action: Stage, spec: ModelSpec) -> Measured:
        return await self._transit(action, spec)

    async def load(self, action: Load, spec: ModelSpec) -> Measured:
        return await self._transit(action, spec)

    async def activate(self, action: Activate) -> Measured:
        return await self._transit(action, self._spec_of(action))

    async def resize(self, action: Resize) -> Measured:
        return await self._transit(action, self._spec_of(action))

    async def deactivate(self, action: Deactivate) -> Measured:
        return await self._transit(action, self._spec_of(action))

    async def unload(self, action: Unload) -> Measured:
        return await self._transit(action, self._spec_of(action))

    async def drop(self, action: Drop) -> Measured:
        return await self._transit(action, self._spec_of(action))

    async def submit(self, replica_id: str, spec: GenerationSpec) -> None:
        self._refuse_closed()
        self._advance()
        if self._model.rung_of(replica_id) is not Rung.SERVING:
            raise EngineError(f"{replica_id} does not serve")
        if not spec.prompt:
            raise BadRequest("the prompt is empty", "prompt")
        planned = planned_of(spec)
        length = spec.max_tokens if planned.tokens is None else max(1, len(planned.tokens))
        emitted = len(spec.emitted)
        if emitted >= length:
            raise EngineError(f"generation {spec.id} has made all of its {length} tokens")
        prompt_tokens = len(spec.prompt) + emitted
        job = Job(spec.id, prompt_tokens, length - emitted, spec.weight, spec.deadline_ns)
        if not self._model.has_slot(replica_id, job):
            raise EngineError(f"no slot of {replica_id} holds {spec.id}")
        self._generations[spec.id] = planned
        self._sent[spec.id] = emitted
        self._model.submit(self._now_ns(), replica_id, job)
        self._arm()

    async def cancel(self, generation_id: str) -> None:
        self._generations.pop(generation_id, None)  # what it has got since is no news
        self._sent.pop(generation_id, None)
        self._advance()
        self._model.cancel(self._now_ns(), generation_id)
        self._arm()

    async def preempt(self, generation_id: str) -> None:
        self._refuse_closed()
        self._advance()
        if self._generations.pop(generation_id, None) is None:
            return
        del self._sent[generation_id]
        at_ns, share_ns = self._now_ns(), self._model.share_ns(generation_id)
        self._model.cancel(at_ns, generation_id)
        step = TokenStep(generation_id, (), "", is_preempted=True, share_ns=share_ns)
        self._frames.put_nowait(Frame(at_ns, (step,)))
        self._arm()

    async def hold(self, generation_id: str, is_held: bool) -> None:
        self._refuse_closed()
        self._advance()
        self._model.hold(self._now_ns(), generation_id, is_held)
        self._arm()

    async def outputs(self) -> AsyncIterator[Frame]:
        while (frame := await self._frames.get()) is not None:
            yield frame

    async def stats(self) -> WorkerStats:
        self._refuse_closed()
        held = sum(self._model.device_bytes(device.id) for device in self._node.devices)
        return WorkerStats(
            held,
            held,
            0,
            0,
            len(self._node.devices),
            self._steps,
            self._model.step_seconds(),
        )

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._is_closed = True
        self._frames.put_nowait(None)

    def _spec_of(self, action: Transition) -> ModelSpec:
        spec = self._model.specs.get(action.replica_id)
        if spec is None:
            raise EngineError(f"no replica {action.replica_id}")
        return spec

    async def _transit(self, action: Transition, spec: ModelSpec) -> Measured:
        self._refuse_closed()
        self._advance()
        self._refuse_illegal(action)
        if isinstance(action, Load):
            self._refuse_placement(action, spec)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[TransitionEnd] = loop.create_future()
        self._moves[action.action_id] = done
        self._model.transit(self._now_ns(), action, spec)
        self._arm()
        end = await done
        if end.failure is not None:
            raise engine_error(end.failure.fault, end.failure.message)
        return end.measured

    def _refuse_illegal(self, action: Transition) -> None:
        rung, edge = self._model.rung_of(action.replica_id), edge_of(action)
        if (rung, edge) not in self._node.capabilities.edges:
            raise EngineError(f"{action.replica_id} is on {rung.value}: no {edge.value} from there")
        destination(rung, edge)
        if edge is Edge.DEACTIVATE and self._model.is_busy(action.replica_id):
            raise EngineError(f"{action.replica_id} has generations running")
        if isinstance(action, Resize) and not self._model.fits(action.replica_id, action.kv):
            raise EngineError(f"what runs on {action.replica_id} does not fit {action.kv}")

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise WorkerGone("the worker is closed")

    def _refuse_placement(self, action: Load, spec: ModelSpec) -> None:
        known = {device.id for device in self._node.devices}
        if not known.issuperset(action.placement.pools):
            raise EngineError(f"cannot place {spec.name} on {action.placement.pools}")
        layers = action.placement.layers
        if layers is None:
            return
        if not self._node.capabilities.partial_layers:
            raise EngineError("this engine loads all layers or none")
        if not 0 < layers <= spec.layers:
            raise EngineError(f"{spec.name} has {spec.layers} layers, not {layers}")

    def _now_ns(self) -> int:
        return round(asyncio.get_running_loop().time() * 1e9)

    def _advance(self) -> None:
        """Bring the model up to now and hand out what happened."""
        steps: list[TokenStep] = []
        at_ns = self._now_ns()
        for one in self._model.advance(at_ns):
            if isinstance(one, Output):
                steps += self._token_step(one)
            else:
                self._moves.pop(one.transition.action_id).set_result(one)
        self._model.catch_up(at_ns)
        steps += self._progress()
        if steps:
            self._steps += 1
            self._frames.put_nowait(Frame(at_ns, tuple(steps)))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ns = self._model.next_at_ns
        if due_ns is not None and self._generations:
            due_ns = min(due_ns, self._now_ns() + _FRAME_NS)
        if due_ns is not None and not self._is_closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(due_ns / 1e9, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._advance()
        self._arm()

    def _progress(self) -> list[TokenStep]:
        """Tokens of generations that go on: a stream must not stand still until its end."""
        steps = []
        for name, planned in self._generations.items():
            first = self._sent[name]
            total = len(planned.spec.emitted) + self._model.produced(name)
            if total > first:
                self._sent[name] = total
                steps.append(words_of(planned, range(first, total)))
        return steps

    def _token_step(self, output: Output) -> list[TokenStep]:
        name = output.generation_id
        planned = self._generations.get(name)
        if planned is None:
            return []
        total = len(planned.spec.emitted) + output.output_tokens
        told = words_of(planned, range(self._sent[name], total))
        self._sent[name] = total
        if not output.is_last:
            return [told]
        del self._generations[name], self._sent[name]
        return [
            structs.replace(
                told,
                finish=planned.finish,
                embedding=embedding_of(planned.spec) if planned.spec.wants_embedding else (),
                prefill_ns=output.prefill_ns,
                decode_ns=output.decode_ns,
                share_ns=output.share_ns,
            )
        ]
