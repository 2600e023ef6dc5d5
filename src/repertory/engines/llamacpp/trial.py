"""A file nobody has opened yet is opened in a throwaway child first.

`python -m repertory.engines.llamacpp.trial PATH [--tokens 4] [--form plain|repacked|words]` prints
one JSON line.  Before a load the whole file is tried; before a text of a model that is not loaded
is read, its words alone.  A file that kills the child is quarantined with its reason; what was
proven or quarantined is remembered per (digest, engine build).
"""

import argparse
import ctypes
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from repertory.domain.errors import (
    BadRequest,
    LoadFailed,
    OutOfMemory,
    Quarantined,
    RepertoryError,
)
from repertory.domain.specs import KvShape, ModelSpec

if TYPE_CHECKING:
    from repertory.engines.llamacpp.library import Model

__all__ = ["Trials", "die_with_parent", "main"]

_log = logging.getLogger(__name__)
_TOKENS = 4
_LEAST_TIMEOUT_S = 60.0
_SLOWEST_BYTES_PER_S = 20e6
"""A file on the slowest disk that anybody serves from; a trial that takes longer hangs."""
_WORDS_TIMEOUT_S = 25.0
"""A client waits meanwhile.  A vocabulary of 262k tokens takes some 3 s."""
_REFUSED_FOR_S = 30.0
"""Each request for the words of a file that cannot be read would cost a child of 0.3 s; but a disk
may have failed to read it."""
_EVERY_BYTE = "".join(
    chr(code)
    for part in (
        range(0x800),
        range(0x800, 0xD800, 0x400),
        range(0xE000, 0x10000, 0x400),
        range(0x10000, 0x110000, 0x10000),
    )
    for code in part
)
"""Each byte that UTF-8 may hold: a vocabulary can lack the token of a single one."""
_TOGETHER = 64
"""Tokens whose texts are put together as one text."""
_LACKS_MEMORY = re.compile(r"mem_buffer != NULL|[Cc]annot allocate memory|bad_alloc|to allocate")
"""The library asserts that it has memory, and aborts."""
_EXIT_NO_MEMORY = 71  # EX_OSERR
_STATE_FILE = "trials.json"
_MODULE = "repertory.engines.llamacpp.trial"
_PR_SET_PDEATHSIG = 1


class _Known(msgspec.Struct, omit_defaults=True):
    """What is remembered of one file."""

    quarantined: str | None = None
    """The reason; None: proven."""
    is_words_only: bool = False
    """Proven, but not as a whole."""

    @property
    def weight(self) -> int:
        """What was found out of a file by two trials at once: the heavier counts."""
        return 2 if self.quarantined is not None else int(not self.is_words_only)


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a child ended."""

    code: int | None
    """None: it did not end in time.  Negative: the signal that killed it."""
    output: str
    errors: str


class Trials:
    """Which files are proven and which are quarantined, by this build of the engine.

    From any thread: the whole of a file may be tried while the words of another are.
    """

    def __init__(
        self,
        state_dir: Path | None,
        command: tuple[str, ...] = (),
        least_timeout_s: float = _LEAST_TIMEOUT_S,
    ) -> None:
        self._running = 0
        self._lock = threading.Lock()
        """Of what is counted and what is known; nobody waits for a trial with it."""
        self._least_timeout_s = least_timeout_s
        self._path = None if state_dir is None else state_dir / _STATE_FILE
        self._command = command or (sys.executable, "-m", _MODULE)
        self._known: dict[str, _Known] = {}
        self._refused: dict[str, tuple[float, str]] = {}
        """Files whose words could not be read, until when, and why."""
        if self._path is not None and self._path.exists():
            self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Known])

    @property
    def is_running(self) -> bool:
        return self._running > 0

    def prove(self, spec: ModelSpec) -> None:
        """Return if the file is proven; raise `Quarantined` or `LoadFailed` otherwise.

        The words are tried along with the whole.
        """
        known = self._known.get(_key(spec.digest))
        if known is None or known.is_words_only:
            timeout_s = max(self._least_timeout_s, spec.weights_bytes / _SLOWEST_BYTES_PER_S)
            arguments = [spec.location, "--tokens", str(_TOKENS)]
            self._try(spec.digest, Path(spec.location), arguments, timeout_s, _Known())
        else:
            _check(known, Path(spec.location))

    def has_words(self, digest: str) -> bool:
        """Whether a vocabulary may be opened in this process."""
        known = self._known.get(_key(digest))
        return known is not None and known.quarantined is None

    def prove_words(self, location: str, digest: str) -> None:
        """Return if a file's vocabulary is proven; raise as `prove` does otherwise."""
        key = _key(digest)
        known = self._known.get(key)
        if known is not None:
            _check(known, Path(location))
            return
        until_s, why = self._refused.get(key, (0.0, ""))
        if time.monotonic() < until_s:
            raise LoadFailed(why)
        arguments = [location, "--form", "words"]
        timeout_s = min(self._least_timeout_s, _WORDS_TIMEOUT_S)
        try:
            self._try(digest, Path(location), arguments, timeout_s, _Known(is_words_only=True))
        except LoadFailed as error:
            self._refused[key] = (time.monotonic() + _REFUSED_FOR_S, str(error))
            raise

    def _try(
        self, digest: str, path: Path, arguments: list[str], timeout_s: float, proven: _Known
    ) -> None:
        """What is found out is remembered."""
        with self._counted():
            ended = _run([*self._command, *arguments], timeout_s)
        known = _judged(path.name, ended) or proven
        self._remember(_key(digest), known)
        _check(known, path)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def _remember(self, key: str, known: _Known) -> None:
        with self._lock:
            before = self._known.get(key)
            if before is None or known.weight > before.weight:
                self._known[key] = known
            if self._path is None:
                return
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                draft = self._path.with_suffix(".draft")
                draft.write_bytes(msgspec.json.format(msgspec.json.encode(self._known)))
                draft.replace(self._path)
            except OSError as error:  # a full disk: known until this process ends
                _log.warning("%s cannot be written: %s", self._path, error.strerror)


def _key(digest: str) -> str:
    from repertory.engines.llamacpp.library import build_name

    return f"{digest} {build_name()}"


def _check(known: _Known, path: Path) -> None:
    if known.quarantined is not None:
        raise Quarantined(
            f"{path.name} is quarantined: {known.quarantined}. Replace the file; whatever has "
            "other bytes is tried anew."
        )


def _judged(name: str, ended: _Ended) -> _Known | None:
    """1. Killed from outside, as the kernel does when memory is short: another time, perhaps.
    2. It hung, or broke: quarantined.
    3. It said why not: failed, for good only if the file is at fault.  4. None: proven.
    """
    if ended.code == -signal.SIGKILL or _LACKS_MEMORY.search(ended.errors):
        raise OutOfMemory(f"the process that was to open {name} first had no memory for it")
    if ended.code is None or ended.code < 0:
        how = "did not end" if ended.code is None else f"died of {_signal_name(-ended.code)}"
        return _Known(f"a process that opened it {how}")
    if ended.code == _EXIT_NO_MEMORY:
        raise OutOfMemory(f"{name} cannot be loaded now: {_said(ended)}")
    if ended.code != 0:
        raise LoadFailed(f"{name} cannot be loaded: {_said(ended)}")
    return None


def _run(command: list[str], timeout_s: float) -> _Ended:
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",  # the library repeats what a broken file holds
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Ended(None, "", "")
    return _Ended(ended.returncode, ended.stdout, ended.stderr)


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"


def _said(ended: _Ended) -> str:
    try:
        return str(json.loads(ended.output)["error"])
    except (ValueError, LookupError, TypeError):
        lines = ended.errors.strip().splitlines()
        return lines[-1] if lines else f"a trial ended with code {ended.code}"


def _open(path: Path, tokens: int, is_repacked: bool) -> dict[str, Any]:  # JSON
    from repertory.engines.llamacpp.context import Context, ContextOptions
    from repertory.engines.llamacpp.library import Model

    model = Model(path, repacked=is_repacked)
    _read_words(path, model)
    context = Context(model, KvShape(1, 256), ContextOptions(is_exact=True, threads=1))
    if context.takes_whole_prompts:
        context.embed(0, [model.bos_token or 0] * tokens, 0)
        return {"vocabulary_tokens": model.vocabulary_tokens, "tokens": []}
    drawn: list[int] = []
    token = model.bos_token or 0
    for position in range(tokens):
        row = context.decode([0], [token], [position])[0]
        token = int(row.argmax())
        drawn.append(token)
    return {"vocabulary_tokens": model.vocabulary_tokens, "tokens": drawn}


def _open_words(path: Path) -> dict[str, Any]:  # JSON
    from repertory.engines.llamacpp.library import Model

    model = Model(path, vocabulary_only=True)
    _read_words(path, model)
    return {"vocabulary_tokens": model.vocabulary_tokens}


def _read_words(path: Path, model: "Model") -> None:
    """All that a worker does with a vocabulary, once for each token and each byte."""
    from repertory.engines.llamacpp.vocabulary import Vocabularies

    vocabularies, location = Vocabularies(lambda _: True), str(path)
    vocabularies.adopt(location, model)
    tokens = range(model.vocabulary_tokens)
    for token in tokens:
        model.is_end(token)
        model.piece(token)
    for start in range(0, len(tokens), _TOGETHER):
        some = vocabularies.detokenize(location, tokens[start : start + _TOGETHER])
        vocabularies.tokenize(location, some)
    vocabularies.tokenize(location, "")
    vocabularies.tokenize(location, _EVERY_BYTE)
    messages = [{"role": "user", "content": _EVERY_BYTE}]
    with suppress(BadRequest):  # it has no template, or one for other messages
        vocabularies.render(location, messages, {})


def die_with_parent() -> None:
    """End when whoever started this process does: it has no other reason to go on.

    The kernel means the *thread* that started it, which must live as long.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        parent = os.getppid()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    """Open one file; 0 and its facts, or the reason: 1 if the file is at fault, 71 if memory is."""
    parser = argparse.ArgumentParser(prog="repertory.engines.llamacpp.trial")
    parser.add_argument("path", type=Path)
    parser.add_argument("--tokens", type=int, default=_TOKENS)
    parser.add_argument("--form", choices=["plain", "repacked", "words"], default="plain")
    options = parser.parse_args(arguments)
    code = 0
    try:
        if options.form == "words":
            answer = _open_words(options.path)
        else:
            answer = _open(options.path, options.tokens, options.form == "repacked")
    except (OutOfMemory, MemoryError) as error:
        code, answer = _EXIT_NO_MEMORY, {"error": str(error) or "no memory"}
    except (RepertoryError, RuntimeError) as error:
        code, answer = 1, {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    die_with_parent()
    # Leave at once: what a broken file did to the heap must not surface in a destructor.
    os._exit(main())
