"""The operator's wishes in force: files and configuration, looked at again while we serve.

An edit is taken in as a whole or not at all; what it changes is changed, the rest goes on.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from repertory.domain.errors import ConfigError
from repertory.domain.events import OperatorAsked, SettingsChanged, Wish
from repertory.domain.settings import Settings
from repertory.domain.specs import ModelSpec
from repertory.live.catalogue import Catalogue, Look
from repertory.live.driver import Driver
from repertory.live.fit import Room, pinned_misfit, warnings
from repertory.live.options import ModelChoice, ServeConfig

__all__ = ["Source", "Stamp", "Wishes", "differences", "needs_restart", "stamp"]

_POLL_S = 1.0
_FAULT = "configuration"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a `ServeConfig` came from, and how to get it anew."""

    path: Path
    read: Callable[[], ServeConfig]
    """`ConfigError` says what is wrong.  Blocks."""
    stamp: "Stamp | None"
    """Of the file when it was read at the start, or before."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Changes when a file is written to or replaced."""

    inode: int
    modified_ns: int
    size_bytes: int


def stamp(path: Path) -> Stamp | None:
    """None: it is not there, as between the two halves of an editor's save."""
    try:
        state = path.stat()
    except OSError:
        return None
    return Stamp(state.st_ino, state.st_mtime_ns, state.st_size)


class Wishes:
    """What is wanted now.  Everything is said once, to `say`; what stays wrong is in `faults`."""

    def __init__(
        self,
        config: ServeConfig,
        source: Source | None,
        faults: dict[str, str],
        say: Callable[[str], None],
    ) -> None:
        self.config = config
        self.settings = Settings(favour=config.favour)
        self.catalogue = Catalogue(config.models, config.folders, config.is_exact)
        self._source = source
        self._faults = faults
        self._say = say
        self._driver: Driver
        self._room: Room | None = None
        """None until the devices are known."""
        self._looking = asyncio.Lock()
        self._said: dict[str, str] = {}
        """Files that are not served, as told to the operator."""
        self._warned: set[str] = set()

    async def first_look(self) -> Look:
        """`ConfigError` if the files cannot fulfil a wish."""
        look = await asyncio.to_thread(self.catalogue.look)
        look.check()
        return look

    def begin(self, driver: Driver, look: Look) -> None:
        """Tell the brain of what the first look found."""
        self._driver = driver
        self._take(look)

    def fit(self, room: Room) -> None:
        """The devices are known now; `ConfigError` if pinned models cannot be loaded together."""
        self._check_pinned(self.catalogue.seen, room)
        self._room = room
        self._warn()

    async def look_again(self) -> None:
        """Files may have come, gone, or changed."""
        async with self._looking:
            self._take(await asyncio.to_thread(self.catalogue.look))

    async def watch(self, asked: asyncio.Event) -> None:
        """Take edits in, and look at once whenever `asked` is set.

        An edit counts when two looks agree: editors and copies write in several steps.
        """
        source = self._source
        taken = seen = source.stamp if source is not None else None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await asked.wait()
            is_asked = asked.is_set()
            asked.clear()
            if source is None:
                if is_asked:
                    await self.look_again()
                    self._say("looked for models again")
                continue
            now = await asyncio.to_thread(stamp, source.path)
            is_still, seen = now == seen, now
            if is_asked or (is_still and now != taken):
                taken = now
                await self._reread(source)

    async def _reread(self, source: Source) -> None:
        async with self._looking:
            try:
                config = await asyncio.to_thread(source.read)
                look = await asyncio.to_thread(self.catalogue.look, config.models)
                look.check()
                if self._room is not None:
                    self._check_pinned(look, self._room)
            except ConfigError as wrong:
                self._say(f"{wrong}\nnothing was changed: the configuration before it stays")
                lines = "; ".join(line.strip() for line in str(wrong).splitlines())
                self._faults[_FAULT] = f"{lines}; the one before it stays in force"
                return
            self._faults.pop(_FAULT, None)
            self._take_in(config, look)

    def _take_in(self, config: ServeConfig, look: Look) -> None:
        old = self.config
        words = differences(old.models, config.models, self._take(look))
        if config.favour is not old.favour:
            self.settings = replace(self.settings, favour=config.favour)
            self._driver.post(SettingsChanged(self._driver.now_ns(), self.settings))
            words.append(f"favour is now {config.favour.value}")
        vain = needs_restart(old, config)
        if vain:
            words.append(f"{', '.join(vain)} can only change with a restart, and stayed")
        self.config = replace(old, models=config.models, favour=config.favour)
        self._say(f"configuration read again: {'; '.join(words) or 'nothing changed'}")

    def _take(self, look: Look) -> list[tuple[str, ModelSpec | None]]:
        """From now on this is on offer; the brain hears what changed."""
        preloaded = {name for name, one in self.catalogue.offers.items() if one.is_preloaded}
        changed = self.catalogue.take(look)
        for event in self.catalogue.events(self._driver.now_ns(), changed):
            self._driver.post(event)
        for name, offer in sorted(look.offers.items()):
            if offer.is_preloaded and name not in preloaded:
                self._driver.post(OperatorAsked(self._driver.now_ns(), name, Wish.LOAD))
        excluded = dict(look.excluded)
        for name, reason in excluded.items():
            if self._said.get(name) != reason:
                self._say(f"not served: {name}: {reason}")
        self._said = excluded
        if changed:
            self._warn()
        return changed

    def _check_pinned(self, look: Look, room: Room) -> None:
        misfit = pinned_misfit(look.pinned, room)
        if misfit is not None:
            raise ConfigError(misfit)

    def _warn(self) -> None:
        """Of models that find no room; those that are told already are not told again."""
        if self._room is None:
            return
        seen = self.catalogue.seen
        specs = [offer.spec for _, offer in sorted(seen.offers.items())]
        found = warnings(specs, seen.pinned, self._room)
        for words in found:
            if words not in self._warned:
                self._say(f"warning: {words}")
        self._warned = set(found)


_FIXED: Mapping[str, Callable[[ServeConfig], object]] = {
    "memory": lambda config: config.memory_bytes,
    "host_memory": lambda config: config.host_memory_bytes,
    "saved_kv_disk": lambda config: config.saved_kv_disk_bytes,
    "devices": lambda config: config.devices,
    "rpc": lambda config: config.rpc,
    "host": lambda config: config.host,
    "port": lambda config: config.port,
    "state_dir": lambda config: config.state_dir,
    "exact": lambda config: config.is_exact,
}
"""What a running server cannot change: its memory is divided, its port is open."""


def needs_restart(old: ServeConfig, new: ServeConfig) -> list[str]:
    """Keys that were changed in vain."""
    return [key for key, value in _FIXED.items() if value(old) != value(new)]


_TOLD: Mapping[str, Callable[[ModelChoice], object]] = {
    "path": lambda choice: choice.path,
    "aliases": lambda choice: choice.aliases,
    "pin": lambda choice: choice.is_pinned,
    "preload": lambda choice: choice.is_preloaded,
    "context": lambda choice: choice.context_tokens,
    "ttl": lambda choice: choice.ttl_s,
    "priority": lambda choice: choice.weight,
}


def differences(
    old: tuple[ModelChoice, ...],
    new: tuple[ModelChoice, ...],
    changed: list[tuple[str, ModelSpec | None]],
) -> list[str]:
    """What an edit changed about models, in words; `changed` adds files that are new as such."""
    before = {choice.name: choice for choice in old}
    after = {choice.name: choice for choice in new}
    words = [f"{name} added" for name in after if name not in before]
    words += [f"{name} removed" for name in before if name not in after]
    for name in before.keys() & after.keys():
        keys = [key for key, of in _TOLD.items() if of(before[name]) != of(after[name])]
        if not keys and any(name == one for one, _ in changed):
            keys = ["its file"]
        if keys:
            words.append(f"{name} changed ({', '.join(keys)})")
    return sorted(words)
