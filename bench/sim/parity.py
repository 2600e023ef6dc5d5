"""500 random workloads under both drivers: the same decision log, byte for byte; and replayed."""

import sys
from multiprocessing import get_context
from pathlib import Path

from bench.checks import Check, at_least
from bench.serve.run import Run

__all__ = ["WORKLOADS", "parity"]

WORKLOADS = 500
_CORES = 2


def parity(run: Run) -> list[Check]:
    equal, decisions = 0, 0
    failed: list[str] = []
    with get_context("spawn").Pool(_CORES) as pool:
        for seed, found in enumerate(pool.imap(_play, range(WORKLOADS), chunksize=10)):
            if isinstance(found, str):
                failed.append(f"seed {seed}: {found}")
                run.say(failed[-1])
            else:
                equal, decisions = equal + 1, decisions + found
            if seed % 50 == 49:
                run.say(f"parity: {equal} of {seed + 1} workloads, {decisions:,} decisions")
    run.keep("parity", {"workloads": WORKLOADS, "decisions": decisions, "failed": failed})
    return [at_least("live and simulated write one log, and it replays", "of 500", equal, 500)]


def _play(seed: int) -> int | str:
    """Decisions of a log that all three agree on, or where they do not."""
    tests = str(Path(__file__).parents[2] / "tests")
    if tests not in sys.path:
        sys.path.insert(0, tests)
    from parity import assert_parity, drawn

    try:
        return int(assert_parity(drawn(seed)))
    except AssertionError as differs:
        return str(differs)
