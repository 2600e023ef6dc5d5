"""API keys on disk: `keys.json` in the state folder, and who a token belongs to.

A token is `rp-ID-SECRET`: a public id of 64 bits that finds its record, and 256 random bits.  The
file holds a salted SHA-256 of the token and never the token.  A slow hash guards words that people
choose; nobody guesses 256 random bits, and each request would pay for it.

The file's presence decides: without one nobody needs a key, with one everybody does, even when its
last key is gone.  Whoever revokes the last key must not thereby open the server to all.
"""

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from repertory.domain.errors import ConfigError

__all__ = ["KEYS_FILE", "Key", "KeyFile", "Keyring", "Rate", "add_key", "read_keys", "remove_key"]

KEYS_FILE = "keys.json"

_log = logging.getLogger(__name__)
_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names are labels of metrics and stand in logs."""
_RATE = re.compile(r"(?P<count>[1-9]\d{0,8})/(?P<unit>s|min|h|d)")
_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NOBODY = bytes(32)
"""Compared with where there is no record, so that the time taken does not tell."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds; as many at once after a rest."""

    count: int
    per_s: float

    @classmethod
    def parse(cls, text: str) -> "Rate":
        match = _RATE.fullmatch(text)
        if match is None:
            raise ConfigError(f"{text!r} is no rate; write it like 60/min (s, min, h, d)")
        return cls(int(match["count"]), _UNITS_S[match["unit"]])


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key as it stands in the file."""

    name: str
    id: str
    salt: str
    hash: str
    """SHA-256 of salt and token, in hex."""
    created: int
    """Unix seconds."""
    admin: bool = False
    models: tuple[str, ...] | None = None
    """Names or aliases that it may use; None: all."""
    rate: str | None = None
    concurrent: int | None = None
    """Requests at a time; None: any number."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    keys: tuple[Key, ...]


class Keyring:
    """The keys of one reading of the file, by their public ids."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self.keys = keys
        self.names = frozenset(key.name for key in keys)
        self._by_id = {
            key.id.encode(): (key, bytes.fromhex(key.salt), bytes.fromhex(key.hash)) for key in keys
        }

    def find(self, token: bytes) -> Key | None:
        """Whose token this is.  The time it takes does not depend on how much of it is right."""
        _, _, rest = token.partition(b"-")
        key, salt, known = self._by_id.get(rest[:16], (None, b"", _NOBODY))
        is_same = hmac.compare_digest(_digest(salt, token), known)
        return key if is_same else None


class KeyFile:
    """The keys as the file has them now: it is read again when it changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = os.fspath(path)
        """As text: a path object would cost as much as looking does."""
        self._stamp = _stamp(self._name, None)
        self._ring = None if self._stamp is None else Keyring(read_keys(path))

    def current(self) -> Keyring | None:
        """None: there is no file.  A file that cannot be read changes nothing, and is said."""
        stamp = _stamp(self._name, self._stamp)
        if stamp != self._stamp:
            self._stamp = stamp
            self._read_again()
        return self._ring

    def _read_again(self) -> None:
        if self._stamp is None:
            self._ring = None
            return
        try:
            self._ring = Keyring(read_keys(self.path))
        except ConfigError as error:
            _log.error("the keys that were known before go on to hold: %s", error)


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file; none if there is no file."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a file of keys: {error}") from None
    if file.version != _VERSION:
        raise ConfigError(f"{path}: version {file.version}; this program knows {_VERSION}")
    for key in file.keys:
        _check(path, key)
    return file.keys


def add_key(path: Path, key: Key) -> str:
    """Add a key of this name and these limits, and return its token, which nobody can see again.

    `key.id`, `.salt` and `.hash` are drawn here.
    """
    if not _NAME.fullmatch(key.name):
        raise ConfigError(
            f"{key.name!r} is no name for a key: letters, digits, '.', '_', '-'; at most 64"
        )
    if key.rate is not None:
        Rate.parse(key.rate)
    with _only_writer(path):
        keys = read_keys(path)
        if any(one.name == key.name for one in keys):
            raise ConfigError(f"there is a key {key.name!r} already; remove it first")
        public, salt = secrets.token_hex(8), secrets.token_bytes(16)
        token = f"rp-{public}-{secrets.token_urlsafe(32)}"
        sealed = _digest(salt, token.encode()).hex()
        made = msgspec.structs.replace(key, id=public, salt=salt.hex(), hash=sealed)
        _write(path, (*keys, made))
    return token


def remove_key(path: Path, name: str) -> tuple[Key, ...] | None:
    """Revoke a key; returns those that are left, None if there was none of that name."""
    with _only_writer(path):
        keys = read_keys(path)
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            return None
        _write(path, left)
    return left


def _digest(salt: bytes, token: bytes) -> bytes:
    return hashlib.sha256(salt + token).digest()


def _check(path: Path, key: Key) -> None:
    """People may write in the file too."""
    if not _NAME.fullmatch(key.name):
        raise ConfigError(f"{path}: {key.name!r} is no name for a key")
    for text, size in ((key.id, 16), (key.salt, 32), (key.hash, 64)):
        if not re.fullmatch(rf"[0-9a-f]{{{size}}}", text):
            raise ConfigError(f"{path}: the key {key.name!r} is damaged; remove it and add another")
    if key.rate is not None:
        Rate.parse(key.rate)
    if key.concurrent is not None and key.concurrent < 1:
        raise ConfigError(f"{path}: 'concurrent' of {key.name!r} must be at least 1")


_Stamp = tuple[int, int, int] | None
"""Inode, time and size of a file that is only ever replaced as a whole.  None: no file."""


def _stamp(path: str, known: _Stamp) -> _Stamp:
    """A folder that cannot be looked into is no sign that nobody needs a key: `known` stays."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError:
        return known
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Two commands at once must not lose each other's key."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ConfigError(f"{path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    """A reader sees the old file or the new one; after a power cut too."""
    fresh = path.with_suffix(".new")
    body = msgspec.json.format(msgspec.json.encode(_File(_VERSION, keys)), indent=2) + b"\n"
    try:
        fresh.unlink(missing_ok=True)  # of a command that was killed
        file = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(body)
            out.flush()
            os.fsync(file)
        os.replace(fresh, path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
