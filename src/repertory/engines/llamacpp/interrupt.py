"""A step that is ended from another thread: what it computes is not wanted any more."""

import ctypes
from typing import Any

from repertory.engines.llamacpp.library import api

__all__ = ["Interrupt", "Interrupted"]

_libc = ctypes.CDLL(None)
_is_asked = ctypes.cast(_libc.strlen, api.ggml_abort_callback)
"""The library calls it before each of a step's hundreds of operations, so it must not want Python's
lock: it is the C library's own, false of an empty string and true of one of one character.  Steps
of a 50M take as long with it as without."""
_NOTHING, _WORD = b"\0", b"x"


class Interrupted(Exception):
    """A step ended before its time.  Cells and logits are those of before it."""


class Interrupt:
    """Of one context.  Any thread may ask; whoever steps says when that is over."""

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(2)

    def watch(self, handle: Any) -> None:  # a ctypes pointer
        """From now on steps of this context end when it is asked.

        On cores: an accelerator is not asked in the middle of its work.
        """
        api.llama_set_abort_callback(handle, _is_asked, ctypes.addressof(self._text))

    def ask(self) -> None:
        """End the step under way, and those that begin before `withdraw`."""
        self._text[0] = _WORD

    def withdraw(self) -> None:
        self._text[0] = _NOTHING
