"""From token pieces to text that is safe to send.  A pure function of the pieces so far.

Used by every engine that detokenises, and again when a generation continues elsewhere: feed it
the pieces already emitted and it stands where it stood.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence

__all__ = ["TextAssembler"]


class TextAssembler:
    """Holds back half characters and whatever may become a stop string.

    The stop string that is complete first ends the text, the longest of those that end together:
    so the text does not depend on how it is cut into tokens.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(text for text in stop if text)
        self._utf8 = getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.is_stopped = False
        """A stop string was met; nothing follows."""

    def feed(self, piece: bytes) -> str:
        """Take one token's bytes; return the text that may go out now."""
        if self.is_stopped:
            return ""
        self._held += self._utf8.decode(piece)
        return self._release()

    def finish(self) -> str:
        """The rest, at the end of a generation that met no stop string."""
        if self.is_stopped:
            return ""
        self._held += self._utf8.decode(b"", final=True)
        text = self._release()
        if not self.is_stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self) -> str:
        met = [(at + len(one), at) for one in self._stop if (at := self._held.find(one)) >= 0]
        if met:
            _, at = min(met)
            text, self._held = self._held[:at], ""
            self.is_stopped = True
            return text
        keep = max((_overlap(self._held, text) for text in self._stop), default=0)
        split = len(self._held) - keep
        text, self._held = self._held[:split], self._held[split:]
        return text


def _overlap(held: str, stop: str) -> int:
    """How many characters at the end of `held` may be the beginning of `stop`."""
    longest = min(len(held), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if held.endswith(stop[:n])), 0)
