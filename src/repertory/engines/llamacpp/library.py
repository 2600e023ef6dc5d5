"""The one door to llama.cpp: its C API, through the low-level module of llama-cpp-python.

`ggml_*` symbols are reached through libllama's own handle.  Never load another libggml: the
install holds copies, and a second copy has its own, empty, list of devices.
"""

import ctypes
import logging
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an assert would else attach a debugger
# libgomp spins at its barriers, then sleeps.  Measured on two cores, 50M q8_0, ms per token: 3.4 at
# 1,000 spins, 2.4 from 20,000 on, for a wake-up costs more than the wait; what long spins cost
# beside busy programs, `team.py` prevents.  Read when the library loads, hence before the import.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import llama_cpp
from llama_cpp import llama_cpp as _declarations

from repertory.domain.errors import LoadFailed, OutOfMemory
from repertory.engines.gguf.facts import ENCODERS

__all__ = [
    "Accelerator",
    "Model",
    "accelerators",
    "answers",
    "api",
    "build_name",
    "forget_statements",
    "free_bytes",
    "last_errors",
    "start",
    "stated_buffers_bytes",
    "stated_buffers_here_bytes",
    "stated_kv_share_here",
]

api: Any = _declarations  # ctypes functions: what they take and give is said by our wrappers
_log = logging.getLogger(__name__)
_WARN, _ERROR = 3, 4
_MMAP, _READ = 1, 0
_ANSWER_S = 3.0
"""To a server on another machine; one that is there answers within milliseconds."""
_ALL_LAYERS = 1_000_000
_GPU_TYPES = (1, 2)  # GGML_BACKEND_DEVICE_TYPE_GPU, _IGPU
_Piece = ctypes.c_char * 512


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device that the library offers besides the CPU."""

    name: str
    backend: str
    memory_bytes: int
    free_bytes: int
    pointer: int


_recent_errors: deque[str] = deque(maxlen=4)
_stated_buffers: list[tuple[str, float]] = []
_stated_kv: list[tuple[str, float]] = []
_stated_weights: list[float] = []
_stated_begins_ns: list[int] = []
_BEGIN_LINE = "load_tensors: loading model tensors"
_WEIGHTS_LINE = re.compile(r"load_tensors: +(?!CPU)\S+ model buffer size = +([0-9.]+) MiB")
_OUT_OF_MEMORY = re.compile(r"[Cc]annot allocate memory|(failed|unable) to allocate|bad_alloc")
"""The library has no error codes; what the system lacked now it may have later."""
_BUFFER_LINE = re.compile(r"(\S+) +(?:compute|output) buffer size = +([0-9.]+) MiB")
_KV_LINE = re.compile(r"(\S+) +(?:KV|RS) buffer size = +([0-9.]+) MiB")


def _on_log(level: int, text: bytes, _: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if stated := _BUFFER_LINE.search(line):
        _stated_buffers.append((stated[1], float(stated[2])))
    if stated := _KV_LINE.search(line):
        _stated_kv.append((stated[1], float(stated[2])))
    if line.startswith(_BEGIN_LINE):
        _stated_begins_ns.append(time.monotonic_ns())
    if stated := _WEIGHTS_LINE.search(line):
        _stated_weights.append(float(stated[1]))
    if level == _ERROR and line:
        _recent_errors.append(line)
    if level in (_WARN, _ERROR) and line:
        _log.info("llama.cpp: %s", line)


_log_callback = api.llama_log_callback(_on_log)  # kept: the library holds the bare pointer
_is_started = False


def start() -> None:
    """Make the library ready: quiet, and with every backend that it was built with."""
    global _is_started
    if not _is_started:
        api.llama_log_set(_log_callback, None)
        api.llama_backend_init()
        _symbol("ggml_backend_load_all", None)()
        _is_started = True


def build_name() -> str:
    """Names the library's build: what is proven for one build is not proven for another."""
    version = api.llama_version().decode()
    return f"llama-cpp-python {llama_cpp.__version__}, llama.cpp {version}"


def _symbol(name: str, result: Any, *arguments: Any) -> Any:  # Any: ctypes types and functions
    function = getattr(api._lib, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


def accelerators(rpc_endpoints: Sequence[str] = ()) -> tuple[Accelerator, ...]:
    """Every GPU-like device of this build, and those behind the RPC endpoints.

    The library aborts the process if nobody answers at one of these; see `answers`.
    """
    start()
    for endpoint in rpc_endpoints:
        _register_rpc(endpoint)
    count = _symbol("ggml_backend_dev_count", ctypes.c_size_t)()
    get = _symbol("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind = _symbol("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    found = [get(index) for index in range(count)]
    return tuple(_accelerator(pointer) for pointer in found if kind(pointer) in _GPU_TYPES)


def _accelerator(pointer: int) -> Accelerator:
    void = ctypes.c_void_p
    size = ctypes.POINTER(ctypes.c_size_t)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _symbol("ggml_backend_dev_memory", None, void, size, size)(
        pointer, ctypes.byref(free), ctypes.byref(total)
    )
    registry = _symbol("ggml_backend_dev_backend_reg", void, void)(pointer)
    backend = _symbol("ggml_backend_reg_name", ctypes.c_char_p, void)(registry)
    name = _symbol("ggml_backend_dev_name", ctypes.c_char_p, void)(pointer)
    return Accelerator(
        name=name.decode(),
        backend=backend.decode().lower().split("[")[0],
        memory_bytes=total.value,
        free_bytes=free.value,
        pointer=pointer,
    )


def forget_statements() -> None:
    """Before a call whose statements matter.  Models and contexts are made on one thread."""
    _recent_errors.clear()
    _stated_buffers.clear()
    _stated_kv.clear()
    _stated_weights.clear()
    _stated_begins_ns.clear()


def stated_buffers_bytes() -> int:
    """Buffers that the library says it reserved for the last context: it has no call that tells."""
    return round(sum(size for _, size in _stated_buffers) * (1 << 20))


def stated_buffers_here_bytes() -> int:
    """Those of them that lie in main memory."""
    return round(sum(size for name, size in _stated_buffers if _is_here(name)) * (1 << 20))


def stated_kv_share_here() -> float:
    """Of the last context's KV memory, the share that lies in main memory."""
    here = sum(size for name, size in _stated_kv if _is_here(name))
    return here / max(sum(size for _, size in _stated_kv), 1e-9)


def _is_here(buffer: str) -> bool:
    """`CPU`, `CPU_Mapped`, `CPU_REPACK`, and what an accelerator can read in place, `CUDA_Host`."""
    return buffer.startswith("CPU") or buffer.endswith("_Host")


def free_bytes(accelerator: Accelerator) -> int:
    """What the device has left now."""
    return _accelerator(accelerator.pointer).free_bytes


def answers(endpoint: str) -> bool:
    """Somebody listens there."""
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, ValueError):
        return False
    return True


def _register_rpc(endpoint: str) -> None:
    void = ctypes.c_void_p
    registry = _symbol("ggml_backend_reg_by_name", void, ctypes.c_char_p)(b"RPC")
    if not registry:
        raise LoadFailed("this llama.cpp was built without RPC; build with GGML_RPC=ON")
    find = _symbol("ggml_backend_reg_get_proc_address", void, void, ctypes.c_char_p)
    address = find(registry, b"ggml_backend_rpc_add_server")
    server = ctypes.CFUNCTYPE(void, ctypes.c_char_p)(address)(endpoint.encode())
    if not server:
        raise LoadFailed(f"no RPC server answers at {endpoint}")
    _symbol("ggml_backend_register", None, void)(server)


def _layers_there(accelerator: Accelerator | None, layers: int | None) -> int:
    if accelerator is None:
        return 0
    return _ALL_LAYERS if layers is None else layers + 1  # the library counts the output head too


def last_errors() -> str:
    """What the library said about its last failure."""
    return "; ".join(_recent_errors) or "llama.cpp gave no reason"


class Model:
    """An opened model file: its weights, or only its vocabulary."""

    def __init__(
        self,
        path: Path,
        *,
        vocabulary_only: bool = False,
        repacked: bool = False,
        accelerator: Accelerator | None = None,
        layers: int | None = None,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`layers` of the model go to the accelerator, the rest stays on the CPU; None: all go.

        `on_progress` hears the share of the bytes that are loaded, before each tensor.
        """
        start()
        forget_statements()
        began_ns = time.monotonic_ns()
        options = api.llama_model_default_params()
        options.vocab_only = vocabulary_only
        options.use_extra_bufts = repacked
        options.load_mode = _MMAP
        options.n_gpu_layers = _layers_there(accelerator, layers)
        chosen = [] if accelerator is None else [accelerator.pointer]
        devices = (ctypes.c_void_p * (len(chosen) + 1))(*chosen, None)  # none: the CPU alone
        options.devices = ctypes.cast(devices, ctypes.c_void_p)

        def go_on(share: float, _: object) -> bool:
            on_progress(share)
            return True

        options.progress_callback = api.llama_progress_callback(go_on)
        self._handle = api.llama_model_load_from_file(os.fsencode(path), options)
        if not self._handle:
            reason = f"llama.cpp cannot load {path.name}: {last_errors()}"
            raise OutOfMemory(reason) if _OUT_OF_MEMORY.search(reason) else LoadFailed(reason)
        self._accelerator_bytes = round(sum(_stated_weights) * (1 << 20))
        self._words_ns = max((at_ns - began_ns for at_ns in _stated_begins_ns), default=0)
        self._vocabulary = api.llama_model_get_vocab(self._handle)
        self.vocabulary_tokens: int = api.llama_vocab_n_tokens(self._vocabulary)

    @property
    def handle(self) -> Any:  # a ctypes pointer
        return self._handle

    def free(self) -> None:
        api.llama_model_free(self._handle)
        self._handle = None

    @property
    def weights_bytes(self) -> int:
        """Of all its tensors."""
        return int(api.llama_model_size(self._handle))

    def tokenize(self, text: str, *, adds_specials: bool) -> tuple[int, ...]:
        """Token ids; specials written in the text count as specials."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        while True:
            tokens = (api.llama_token * room)()
            count = api.llama_tokenize(
                self._vocabulary, raw, len(raw), tokens, room, adds_specials, True
            )
            if count >= 0:
                return tuple(tokens[:count])
            room = -count

    def piece(self, token: int, *, shows_specials: bool = False) -> bytes:
        """A token's bytes; specials have none unless asked for."""
        # A buffer for each call: a grammar is read on one thread while another one writes text.
        buffer = _Piece()
        while True:
            count = api.llama_token_to_piece(
                self._vocabulary, token, buffer, len(buffer), 0, shows_specials
            )
            if count >= 0:
                return buffer.raw[:count]
            buffer = ctypes.create_string_buffer(-count)

    def is_end(self, token: int) -> bool:
        """Whether generation ends with this token."""
        return bool(api.llama_vocab_is_eog(self._vocabulary, token))

    @property
    def accelerator_bytes(self) -> int:
        """Tensors that the library says it put elsewhere than into main memory."""
        return self._accelerator_bytes

    @property
    def words_ns(self) -> int:
        """Of opening it, the part before the tensors: the file's head, and the vocabulary; 0: the
        library did not say when it began with them.
        """
        return self._words_ns

    @property
    def has_plain_kv(self) -> bool:
        """Whether its state is attention over all tokens and nothing else."""
        model = self._handle
        return not (
            api.llama_model_n_swa(model)
            or api.llama_model_is_recurrent(model)
            or api.llama_model_is_hybrid(model)
        )

    @property
    def pooling(self) -> int:
        """How the file says that a text's embedding is made, as the library counts; 0: no word."""
        value = self._fact(f"{self.architecture}.pooling_type")
        return int(value) if value.isdecimal() else 0

    @property
    def is_causal(self) -> bool:
        """Whether a token looks only at those before it."""
        if self.architecture in ENCODERS:
            return False
        return self._fact(f"{self.architecture}.attention.causal") != "false"

    @property
    def only_embeds(self) -> bool:
        """It was trained for embeddings, not to go on with a text."""
        return self.pooling > 0 or not self.is_causal

    @property
    def shows_all_states(self) -> bool:
        """An embedding takes the states of all tokens, not only of the last one."""
        return self.pooling in (1, 2) or not self.is_causal

    @property
    def architecture(self) -> str:
        return self._fact("general.architecture")

    def _fact(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(128)
        count = api.llama_model_meta_val_str(self._handle, key.encode(), buffer, len(buffer))
        return "" if count < 0 else buffer.value.decode("utf-8", "replace")

    @property
    def embedding_size(self) -> int:
        """Numbers of an embedding."""
        return int(api.llama_model_n_embd_out(self._handle))

    @property
    def adds_bos(self) -> bool:
        """Whether the file asks for a BOS token before every text."""
        return bool(api.llama_vocab_get_add_bos(self._vocabulary))

    @property
    def bos_token(self) -> int | None:
        token: int = api.llama_vocab_bos(self._vocabulary)
        return token if token >= 0 else None

    @property
    def eos_token(self) -> int | None:
        token: int = api.llama_vocab_eos(self._vocabulary)
        return token if token >= 0 else None

    @property
    def chat_template(self) -> str | None:
        text = api.llama_model_chat_template(self._handle, None)
        return None if text is None else text.decode("utf-8", "replace")
