"""A file nobody has opened yet is opened in a throwaway child first.

`python -m repertory.engines.llamacpp.trial PATH [--tokens 4] [--form plain|repacked]` prints one
JSON line.  A file that kills the child is quarantined with its reason; what was proven or
quarantined is remembered per (digest, engine build).
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from repertory.domain.errors import LoadFailed, OutOfMemory, Quarantined, RepertoryError
from repertory.domain.specs import KvShape, ModelSpec

__all__ = ["Trials", "main"]

_TOKENS = 4
_LEAST_TIMEOUT_S = 60.0
_SLOWEST_BYTES_PER_S = 20e6
"""A file on the slowest disk that anybody serves from; a trial that takes longer hangs."""
_LACKS_MEMORY = re.compile(r"mem_buffer != NULL|[Cc]annot allocate memory|bad_alloc|to allocate")
"""The library asserts that it has memory, and aborts."""
_EXIT_NO_MEMORY = 71  # EX_OSERR
_STATE_FILE = "trials.json"
_MODULE = "repertory.engines.llamacpp.trial"


class _Known(msgspec.Struct, omit_defaults=True):
    """What is remembered of one file."""

    quarantined: str | None = None
    """The reason; None: proven."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a child ended."""

    code: int | None
    """None: it did not end in time.  Negative: the signal that killed it."""
    output: str
    errors: str


class Trials:
    """Which files are proven and which are quarantined, by this build of the engine."""

    def __init__(
        self,
        state_dir: Path | None,
        command: tuple[str, ...] = (),
        least_timeout_s: float = _LEAST_TIMEOUT_S,
    ) -> None:
        self.is_running = False
        self._least_timeout_s = least_timeout_s
        self._path = None if state_dir is None else state_dir / _STATE_FILE
        self._command = command or (sys.executable, "-m", _MODULE)
        self._known: dict[str, _Known] = {}
        if self._path is not None and self._path.exists():
            self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Known])

    def prove(self, spec: ModelSpec) -> None:
        """Return if the file is proven; raise `Quarantined` or `LoadFailed` otherwise."""
        from repertory.engines.llamacpp.library import build_name

        key = f"{spec.digest} {build_name()}"
        known = self._known.get(key)
        if known is None:
            self.is_running = True
            try:
                ended = self._run(spec)
            finally:
                self.is_running = False
            self._judge(key, spec.name, ended)
        elif known.quarantined is not None:
            raise Quarantined(f"{spec.name} is quarantined: {known.quarantined}")

    def _judge(self, key: str, name: str, ended: _Ended) -> None:
        """1. Killed from outside, as the kernel does when memory is short: another time, perhaps.
        2. It hung, or broke: quarantined.
        3. It said why not: failed, for good only if the file is at fault.  4. Proven.
        """
        if ended.code == -signal.SIGKILL or _LACKS_MEMORY.search(ended.errors):
            raise OutOfMemory(f"the process that was to open {name} first had no memory for it")
        if ended.code is None or ended.code < 0:
            how = "did not end" if ended.code is None else f"died of {_signal_name(-ended.code)}"
            reason = f"a process that opened it {how}"
            self._remember(key, _Known(reason))
            raise Quarantined(f"{name} is quarantined: {reason}")
        if ended.code == _EXIT_NO_MEMORY:
            raise OutOfMemory(f"{name} cannot be loaded now: {_said(ended)}")
        if ended.code != 0:
            raise LoadFailed(f"{name} cannot be loaded: {_said(ended)}")
        self._remember(key, _Known())

    def _run(self, spec: ModelSpec) -> _Ended:
        command = [*self._command, spec.location, "--tokens", str(_TOKENS)]
        timeout_s = max(self._least_timeout_s, spec.weights_bytes / _SLOWEST_BYTES_PER_S)
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return _Ended(None, "", "")
        return _Ended(ended.returncode, ended.stdout, ended.stderr)

    def _remember(self, key: str, known: _Known) -> None:
        self._known[key] = known
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft = self._path.with_suffix(".draft")
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(self._known)))
            draft.replace(self._path)


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


def main(arguments: list[str] | None = None) -> int:
    """Open one file; 0 and its facts, or the reason: 1 if the file is at fault, 71 if memory is."""
    parser = argparse.ArgumentParser(prog="repertory.engines.llamacpp.trial")
    parser.add_argument("path", type=Path)
    parser.add_argument("--tokens", type=int, default=_TOKENS)
    parser.add_argument("--form", choices=["plain", "repacked"], default="plain")
    options = parser.parse_args(arguments)
    code = 0
    try:
        answer = _open(options.path, options.tokens, options.form == "repacked")
    except (OutOfMemory, MemoryError) as error:
        code, answer = _EXIT_NO_MEMORY, {"error": str(error) or "no memory"}
    except (RepertoryError, RuntimeError) as error:
        code, answer = 1, {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    # Leave at once: what a broken file did to the heap must not surface in a destructor.
    os._exit(main())
