"""What is timed: SG-20's test week on 16 H100s, each run in a process of its own, on one core."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from repertory.config.fleet import models_of, parse_fleet
from repertory.domain.fleets import Fleet

__all__ = ["fleet_of", "timed"]

FLEET = """
name: sixteen
nodes:
  - id: box
    count: {boxes}
    devices: [{{gpu: h100_sxm, count: {gpus}}}]
    disk: 25GB/s
    host_memory: 1TiB
"""
SECONDS = 1800
"""After which a run is given up."""


def fleet_of(sizes: list[tuple[str, int]], devices: int) -> Fleet:
    """So many H100s, eight to a machine, with these models."""
    text = FLEET.format(boxes=max(1, devices // 8), gpus=min(8, devices))
    fleet = parse_fleet(text, "fleet.yaml")
    return replace(fleet, models=models_of(sizes, fleet))


def timed(**wanted: object) -> Mapping[str, Any]:  # Any: JSON
    """What `bench.sim.one` says of a run, which it gets as JSON."""
    ended = subprocess.run(
        [sys.executable, "-m", "bench.sim.one", json.dumps(wanted)],
        check=True,
        stdout=subprocess.PIPE,  # what it says of a fault is shown
        timeout=SECONDS,
    )
    found: Mapping[str, Any] = json.loads(ended.stdout)
    return found
