"""What `repertory profile` has measured, brought to the brain; it may be run while we serve."""

from collections.abc import Callable, Mapping
from pathlib import Path

from repertory.domain.events import ModelProfiled
from repertory.domain.readings import Readings
from repertory.domain.specs import NodeSpec
from repertory.live.profile_files import (
    identity_of,
    profiles_folder,
    read_profiles,
    readings_on,
)

__all__ = ["Profiled"]


_Stamps = dict[str, tuple[int, int] | None]


class Profiled:
    """The profiles of a state folder.  `look` reads files; everything else is memory."""

    def __init__(
        self,
        state_dir: Path,
        is_exact: bool,
        say: Callable[[str], None],
        offered: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`offered`: digests of the files that are served now, by the name of the model."""
        self._offered = offered
        self._folder = profiles_folder(state_dir)
        self._is_exact = is_exact
        self._say = say
        self._seen: _Stamps | None = None
        """At the last look; None: there was none."""
        self._read: _Stamps = {}
        """When the files were last read."""
        self._held_for: dict[str, str] = {}
        """What was on offer then."""
        self._said: set[str] = set()
        self._known: dict[str, Readings] = {}

    def look(self) -> bool:
        """Whether something can be told that was not known before.

        Files are read again when they, or the models on offer, have changed.
        After the first look a change counts once it has stood for a whole one: a profiler writes
        after every measurement.  What cannot be used is said once, with the reason, and done
        without.
        """
        stamps = {path.name: _stamp(path) for path in sorted(self._folder.glob("*.json"))}
        stands = self._seen in (None, stamps)
        self._seen = stamps
        offered = dict(self._offered())
        if (stamps, offered) == (self._read, self._held_for) or not stands:
            return False
        self._read, self._held_for = stamps, offered
        here = identity_of("", is_exact=self._is_exact)
        found = read_profiles(self._folder, here, offered)
        for one in (*found.refused, *found.replaced):
            words = f"profile not used: {one.path.name}: {one.reason}"
            if words not in self._said:
                self._said.add(words)
                self._say(words)
        changed = dict(found.readings) != self._known
        self._known = dict(found.readings)
        return changed and bool(self._known)

    def events(self, at_ns: int, node: NodeSpec) -> list[ModelProfiled]:
        """For those devices of the node that are the ones that were measured."""
        return [
            ModelProfiled(at_ns, digest, read)
            for digest, readings in sorted(self._known.items())
            for device in node.devices
            if (read := readings_on(readings, device)) is not None
        ]


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes with every write; None: it went in between."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
