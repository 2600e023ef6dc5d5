"""A context of the library: the KV memory of one model's slots, and the steps computed in it."""

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repertory.domain.errors import OutOfMemory
from repertory.domain.specs import KvShape
from repertory.engines.llamacpp import CHUNK_TOKENS
from repertory.engines.llamacpp.cells.buffers import State, new_buffer
from repertory.engines.llamacpp.interrupt import Interrupt, Interrupted
from repertory.engines.llamacpp.library import (
    Model,
    api,
    forget_statements,
    last_errors,
    stated_buffers_bytes,
    stated_buffers_here_bytes,
    stated_kv_share_here,
)
from repertory.engines.pooling import Embeddings

__all__ = [
    "WARM_UP_TOKENS",
    "Context",
    "ContextOptions",
    "DecodeFailed",
    "Logits",
    "SavedSequence",
    "empty_sequence",
    "warm_up_decode",
    "warm_up_embed",
    "warm_up_prefill",
]

Logits = NDArray[np.float32]

WARM_UP_TOKENS = 2
"""A 1.1B q4_0 takes 50 ms for two tokens and 120 for eight: a gap in every stream beside it."""
_LEAST_CHUNK_TOKENS = 16
_MOST_CHUNK_WORK = 50e9
"""Tokens times bytes of weights: half a second on two cores."""
_MARK_BYTES = 8
"""What a saved sequence begins with: the library's mark, and the slot it comes from."""
_HEAD_BYTES = _MARK_BYTES + 4
"""And the number of slots."""
_EMPTY_BYTES = 4
"""What is said of a slot that holds nothing."""
_ABORTED = 2
"""What the library answers when a step was interrupted."""
_MOST_SLOTS = 1024
"""Of a context; the library has 256."""


class DecodeFailed(RuntimeError):
    """One `llama_decode` failed; the sequences of its batch are lost, the context is not."""


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """What all contexts of a worker have in common."""

    is_exact: bool
    threads: int
    is_on_cpu: bool = True


@dataclass(frozen=True, slots=True)
class SavedSequence:
    """One slot's KV outside of its context.

    The library writes its mark and the slot, the number of slots, then for each slot a count of
    cells and their bytes; all slots but one are empty.  Where that is the first one, only the
    number of slots and the zeros at the end have to be right for another context, and nothing is
    copied.
    """

    room: State
    """The library's bytes, and zeros for the most slots that there may be."""
    size_bytes: int
    """Of its bytes, with the empty slots of the context that it comes from."""
    sequences: int
    """Slots of that context."""
    reading: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)
    """Two lanes may want it for contexts of different sizes."""

    @property
    def bytes(self) -> int:
        return self.size_bytes

    @property
    def content(self) -> State:
        """All but the empty slots after it: what a file has to hold."""
        return self.room[: self.size_bytes - _EMPTY_BYTES * (self.sequences - 1)]

    def among(self, sequences: int) -> State:
        """The state as a context of so many slots wants it.  By whoever is `reading`."""
        content_bytes = self.content.size
        self.room[_MARK_BYTES:_HEAD_BYTES] = np.array([sequences], np.uint32).view(np.uint8)
        return self.room[: content_bytes + _EMPTY_BYTES * (sequences - 1)]


def empty_sequence(content_bytes: int) -> SavedSequence:
    """For a `content` of so many bytes, to be read into it."""
    room = new_buffer(content_bytes + _EMPTY_BYTES * _MOST_SLOTS)
    return SavedSequence(room, content_bytes, 1)


class Context:
    """KV memory and compute buffers of one model, `shape.sequences` slots of `shape.cells` tokens.

    Each slot has its own cells (not unified), so that a sequence never sees its company.
    Only the step loop of the device may call `prefill` and `decode`.
    """

    def __init__(self, model: Model, shape: KvShape, options: ContextOptions) -> None:
        forget_statements()
        self._vocabulary_tokens = model.vocabulary_tokens
        self._embedding_size = model.embedding_size
        self._capacity = _batch_tokens(model, shape)
        self.chunk_tokens = _chunk_tokens(model, options)
        """Tokens of one prefill step."""
        self.shape = shape
        self.is_exact = options.is_exact
        self.takes_whole_prompts = not model.is_causal
        """Each token looks at those after it too: a prompt is one batch."""
        parameters = api.llama_context_default_params()
        parameters.n_ctx = shape.tokens
        parameters.n_seq_max = shape.sequences
        parameters.n_batch = parameters.n_ubatch = self._capacity
        parameters.n_outputs_max = self._capacity if model.shows_all_states else shape.sequences
        parameters.embeddings = model.shows_all_states  # while buffers are reserved
        parameters.pooling_type = 0  # none: a pool of ours goes over all chunks
        parameters.n_threads = parameters.n_threads_batch = options.threads
        parameters.kv_unified = False
        parameters.flash_attn_type = 0 if options.is_exact else -1
        parameters.offload_kqv = parameters.op_offload = not options.is_on_cpu
        parameters.no_perf = True
        self._handle = api.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise OutOfMemory(
                f"llama.cpp cannot make {shape.sequences} x {shape.cells} cells: {last_errors()}"
            )
        api.llama_set_embeddings(self._handle, False)
        self._memory = api.llama_get_memory(self._handle)
        self._batch = _Batch(self._capacity)
        self._views: dict[tuple[int, int, int], Logits] = {}
        """Of the library's buffers, by address, rows and width: making one takes 30 µs."""
        self._has_plain_kv = model.has_plain_kv
        self.interrupt = Interrupt()
        if model.has_plain_kv:  # of others, what a step has begun cannot be taken back
            self.interrupt.watch(self._handle)
        self._threads = options.threads
        self.cells_allocated: int = api.llama_n_ctx(self._handle)
        self.reserved_bytes = (
            stated_buffers_bytes()
            + _work_bytes(model, shape.cells, options, stated_kv_share_here() > 0.0)
            + _states_bytes(model, self._capacity)
        )
        """Compute and output buffers, as the library reserved them for its worst batch, what its
        CPU backend takes to work in when that batch comes, and rows of all its tokens if an
        embedding takes them."""
        self.kv_share_here = stated_kv_share_here()
        """How much of its KV memory lies in main memory: that of the layers that are there."""
        self.reserved_here_bytes = (
            self.reserved_bytes - stated_buffers_bytes() + stated_buffers_here_bytes()
        )
        """Of `reserved_bytes`, what lies in main memory."""

    @property
    def has_memory(self) -> bool:
        """Whether it keeps cells; encoders compute everything in one call."""
        return bool(self._memory)

    def free(self) -> None:
        api.llama_free(self._handle)
        self._handle = None

    def use_threads(self, threads: int) -> None:
        if threads != self._threads:
            api.llama_set_n_threads(self._handle, threads, threads)
            self._threads = threads

    def prefill(
        self, slot: int, tokens: Sequence[int], position: int, *, wants_logits: bool
    ) -> Logits | None:
        """Compute a chunk of a prompt; the last token's logits if they are wanted."""
        self._batch.fill_chunk(slot, tokens, position, wants_logits)
        self._decode()
        return self._logits(1)[0] if wants_logits else None

    def embed(self, slot: int, tokens: Sequence[int], position: int) -> Embeddings:
        """Compute a chunk of a prompt; a row of hidden state for each token.

        Wanted for the length of this call only: other steps shall not compute it.
        """
        api.llama_set_embeddings(self._handle, True)
        try:
            self._batch.fill_chunk(slot, tokens, position, True)
            self._batch.want_all()
            self._decode()
            return self._floats(api.llama_get_embeddings, len(tokens), self._embedding_size).copy()
        finally:
            api.llama_set_embeddings(self._handle, False)

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        """Compute one token for each slot (ascending); a row of logits for each.

        The rows are a view that the next call overwrites.
        """
        self._batch.fill_rows(slots, tokens, positions)
        self._decode()
        return self._logits(len(slots))

    def forget(self, slot: int, position: int = 0) -> bool:
        """Drop a slot's cells from `position` on; False if this architecture cannot."""
        return bool(api.llama_memory_seq_rm(self._memory, slot, position, -1))

    def tokens_in(self, slot: int) -> int:
        """How many tokens have their cells in a slot."""
        return int(api.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def saved_bytes(self, slot: int) -> int:
        """What `save` would take."""
        return int(api.llama_state_seq_get_size(self._handle, slot))

    def save(self, slot: int) -> SavedSequence:
        """A slot's KV, bit for bit."""
        size, sequences = self.saved_bytes(slot), self.shape.sequences
        room = new_buffer(size + _EMPTY_BYTES * _MOST_SLOTS)
        written = api.llama_state_seq_get_data(self._handle, _bytes(room), size, slot)
        if written != size:
            raise DecodeFailed(f"saved {written} of {size} bytes of a sequence")
        if self._has_plain_kv:  # the empty slots before it go after it
            head = room[:_HEAD_BYTES].copy()
            room = room[_EMPTY_BYTES * slot :]
            room[:_HEAD_BYTES] = head
        return SavedSequence(room, size, sequences)

    def restore(self, slot: int, saved: SavedSequence) -> None:
        """Put a saved slot here; slot and context may be others than it was saved from."""
        if saved.sequences != self.shape.sequences and not self._has_plain_kv:
            raise DecodeFailed("this architecture's state is bound to its number of slots")
        with saved.reading:
            state = saved.among(self.shape.sequences)
            read = api.llama_state_seq_set_data(self._handle, _bytes(state), state.size, slot)
        if read != state.size:
            self.forget(slot)
            raise DecodeFailed(f"restored {read} of {state.size} bytes of a sequence")

    def _decode(self) -> None:
        compute = api.llama_decode if self.has_memory else api.llama_encode
        result = compute(self._handle, self._batch.struct)
        if result == _ABORTED:
            raise Interrupted
        if result != 0:
            raise DecodeFailed(f"{compute.__name__} returned {result}")
        # A CPU backend is done by now; an accelerator is not, and its time is to be measured.
        api.llama_synchronize(self._handle)

    def _logits(self, rows: int) -> Logits:
        return self._floats(api.llama_get_logits, rows, self._vocabulary_tokens)

    def _floats(self, get: Any, rows: int, width: int) -> Logits:
        """A view of what the library computed.  `get` is a ctypes function."""
        pointer = get(self._handle)
        if not pointer:
            raise DecodeFailed(f"{get.__name__} has nothing")
        address = ctypes.addressof(pointer.contents)
        view = self._views.get((address, rows, width))
        if view is None:
            memory = (ctypes.c_float * (rows * width)).from_address(address)
            view = np.frombuffer(memoryview(memory), np.float32).reshape(rows, width)
            self._views[address, rows, width] = view
        return view


def _chunk_tokens(model: Model, options: ContextOptions) -> int:
    """Shorter steps of models that are slow on cores: others take turns with them.

    A divisor of `CHUNK_TOKENS`, by the weights alone, so that in mode `exact` equal prompts have
    equal chunks.  Measured on two cores, seconds for 128 tokens in steps of 128 / 64 / 32: 300M
    q8_0 0.33 / 0.30 / 0.38; 1.1B q4_0 repacked 1.05 / 1.00 / 1.10, plain 1.93 / 2.06 / 2.14.
    """
    if not options.is_on_cpu:
        return CHUNK_TOKENS
    tokens = CHUNK_TOKENS
    while tokens > _LEAST_CHUNK_TOKENS and tokens * model.weights_bytes > _MOST_CHUNK_WORK:
        tokens //= 2
    return tokens


def _batch_tokens(model: Model, shape: KvShape) -> int:
    """Tokens of the largest batch; a single ubatch, so that one call is one step."""
    return max(CHUNK_TOKENS, shape.sequences) if model.is_causal else shape.cells


def _work_bytes(model: Model, cells: int, options: ContextOptions, has_layers_here: bool) -> int:
    """The widest second operand of a product, converted to 16 bits: a layer's feed-forward, or,
    without flash attention, all heads' scores over all cells of a slot."""
    if not options.is_on_cpu and not has_layers_here:
        return 0
    feed_forward = 4 * api.llama_model_n_embd(model.handle)
    scores = cells * api.llama_model_n_head(model.handle) if options.is_exact else 0
    return int(2 * CHUNK_TOKENS * max(feed_forward, scores))


def _states_bytes(model: Model, batch_tokens: int) -> int:
    """With its state, each token gets logits, wanted or not: the library's buffer has both."""
    width = model.vocabulary_tokens + model.embedding_size
    return 4 * batch_tokens * width if model.shows_all_states else 0


def _bytes(state: State) -> Any:  # a ctypes pointer
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def warm_up_prefill(context: Context) -> int:
    """Run one small chunk; the bytes of its `WARM_UP_TOKENS` tokens, as saved.

    Small, because other models' streams wait for it: a full batch of a 1.1B holds two cores for
    1.4 s and shows 4-15 MiB more, which `Context.reserved_bytes` knows already.  Token 0 stands
    in for a prompt; nothing of it stays in the cells.
    """
    context.prefill(0, [0] * WARM_UP_TOKENS, 0, wants_logits=True)
    saved = context.save(0).bytes
    context.forget(0)
    return saved


def warm_up_embed(context: Context, tokens: int) -> int:
    """Embed so many tokens; their bytes, as saved, if anything of them stays."""
    context.embed(0, [0] * tokens, 0)
    saved = context.save(0).bytes if context.has_memory else 0
    context.forget(0)
    return saved


def warm_up_decode(context: Context) -> int:
    """Run one token; its bytes.  A step of its own: a stream's step fits in between."""
    context.decode([0], [0], [0])
    saved = context.save(0).bytes
    context.forget(0)
    return saved


class _Batch:
    """A `llama_batch` over numpy arrays: filled without a ctypes call per field."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int32)
        self._slots_per_token = np.ones(capacity, np.int32)
        self._slot = np.zeros(capacity, np.int32)
        base = self._slot.ctypes.data
        self._slot_pointer = np.arange(capacity, dtype=np.uint64) * 4 + np.uint64(base)
        self._wants_logits = np.zeros(capacity, np.int8)
        self.struct = api.llama_batch()
        types = dict(api.llama_batch._fields_)
        for name, array in (
            ("token", self._token),
            ("pos", self._position),
            ("n_seq_id", self._slots_per_token),
            ("seq_id", self._slot_pointer),
            ("logits", self._wants_logits),
        ):
            setattr(self.struct, name, ctypes.cast(array.ctypes.data, types[name]))
        self.struct.embd = None

    def fill_chunk(
        self, slot: int, tokens: Sequence[int], position: int, wants_logits: bool
    ) -> None:
        count = len(tokens)
        self._token[:count] = tokens
        self._position[:count] = np.arange(position, position + count)
        self._slot[:count] = slot
        self._wants_logits[:count] = 0
        self._wants_logits[count - 1] = wants_logits
        self.struct.n_tokens = count

    def want_all(self) -> None:
        """Output every token of the chunk."""
        self._wants_logits[: self.struct.n_tokens] = 1

    def fill_rows(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> None:
        count = len(slots)
        self._token[:count] = tokens
        self._position[:count] = positions
        self._slot[:count] = slots
        self._wants_logits[:count] = 1
        self.struct.n_tokens = count
