"""A disk that is slower than this machine's, for all that a block of code starts; and cold files.

Warm loads on this machine are worth a few decode steps; on the paper's servers some 138.  With the
kernel's own cap on what a group of processes reads (blkio, cgroup v1) a load of a small model is
worth as many, for whichever system runs in it.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["forget_pages", "slow_disk"]

_GROUPS = Path("/sys/fs/cgroup/blkio")


@contextlib.contextmanager
def slow_disk(folder: Path, bytes_per_s: int) -> Iterator[None]:
    """This process, and what it starts meanwhile, reads the folder's disk no faster than that."""
    group = _GROUPS / f"repertory-bench-{os.getpid()}"
    named = _disk_of(folder)
    try:
        group.mkdir()
        (group / "blkio.throttle.read_bps_device").write_text(f"{named} {bytes_per_s}")
    except OSError as error:
        raise RuntimeError(
            f"no cap on reads here ({error}): this needs cgroup v1 with blkio, and root"
        ) from error
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (_GROUPS / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):  # a child that has not ended keeps it
            group.rmdir()


def _disk_of(folder: Path) -> str:
    """Its numbers, major:minor; a partition has no cap of its own."""
    device = os.stat(folder).st_dev
    numbers = f"{os.major(device)}:{os.minor(device)}"
    block = Path(f"/sys/dev/block/{numbers}").resolve()
    if (block / "partition").exists():
        return (block.parent / "dev").read_text().strip()
    return numbers


def forget_pages(files: Sequence[Path]) -> None:
    """The page cache lets go of them, but for what is mapped somewhere."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
