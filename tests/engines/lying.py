"""Model files whose words lie: our reader finds nothing wrong, and the library aborts."""

from pathlib import Path
from struct import pack

_TOKEN, _OTHER = "\u0120e".encode(), "\u0120t".encode()


def with_lying_words(good: Path, path: Path) -> Path:
    """A copy in which two tokens have one text."""
    raw = good.read_bytes()
    first = raw.index(_word(_TOKEN))  # the merges name it again, later
    lie = raw[:first] + _word(_OTHER) + raw[first + len(_word(_TOKEN)) :]
    path.write_bytes(lie)
    return path


def _word(text: bytes) -> bytes:
    return pack("<Q", len(text)) + text
