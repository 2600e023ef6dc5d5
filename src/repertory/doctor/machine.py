"""This machine, read: processors, memory, limits.  Linux's files; elsewhere there are none."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import psutil

from repertory.engines.gguf.facts import cpu_features

__all__ = ["Machine", "read_machine"]


@dataclass(frozen=True, slots=True)
class Machine:
    """None: cannot be read here."""

    cores_present: int
    cores_usable: int
    """This process may run on them."""
    cpu_quota: float | None
    """Cores' worth of time that the container gets; None: no limit."""
    load: float
    """Programs that computed or waited for a disk, mean of the last minute."""
    features: frozenset[str]
    swap_bytes: int
    swap_used_bytes: int
    overcommit: int | None
    huge_pages: str | None
    clock_source: str | None
    open_files: int
    locked_bytes: int | None
    """None: no limit."""
    gpu_nodes: tuple[str, ...]
    """Device files of graphics cards."""


def read_machine(root: Path = Path("/")) -> Machine:
    """Of the machine whose files are under `root`."""
    swap = psutil.swap_memory()
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    overcommit = _text(root / "proc/sys/vm/overcommit_memory")
    return Machine(
        cores_present=os.cpu_count() or 1,
        cores_usable=len(os.sched_getaffinity(0)),
        cpu_quota=read_quota(root),
        load=os.getloadavg()[0],
        features=cpu_features(),
        swap_bytes=int(swap.total),
        swap_used_bytes=int(swap.used),
        overcommit=int(overcommit) if overcommit else None,
        huge_pages=_chosen(_text(root / "sys/kernel/mm/transparent_hugepage/enabled")),
        clock_source=_text(
            root / "sys/devices/system/clocksource/clocksource0/current_clocksource"
        ),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        locked_bytes=None if locked == resource.RLIM_INFINITY else locked,
        gpu_nodes=tuple(
            name for name in ("nvidia0", "kfd", "dri/renderD128") if (root / "dev" / name).exists()
        ),
    )


def read_quota(root: Path) -> float | None:
    """The tightest CPU limit on the way up the cgroup tree; version 2, else 1."""
    quotas: list[float] = []
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, read = root / "sys/fs/cgroup", _quota_2
        elif "cpu" in controllers.split(","):
            mount, read = root / "sys/fs/cgroup/cpu", _quota_1
        else:
            continue
        inner = mount / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder == mount or mount in folder.parents:
                quota = read(folder)
                quotas += [quota] if quota is not None else []
    return min(quotas, default=None)


def _quota_2(folder: Path) -> float | None:
    words = (_text(folder / "cpu.max") or "").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _quota_1(folder: Path) -> float | None:
    quota = _text(folder / "cpu.cfs_quota_us")
    period = _text(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _chosen(text: str | None) -> str | None:
    """`always [madvise] never`: the one in brackets."""
    return text.partition("[")[2].partition("]")[0] or None if text else None
