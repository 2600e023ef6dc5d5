"""The same events give the same log, byte for byte; and a log gives its events back."""

import subprocess
import sys
from pathlib import Path

import pytest

from repertory.core.controller import Controller
from repertory.core.invariants import check
from repertory.core.journal import Header, decode_event, encode, encode_header, read_lines
from repertory.domain.events import ModelAdded, ModelProfiled
from repertory.domain.ladder import Rung
from repertory.domain.readings import DeviceReadings, MemoryReading, StepReading
from repertory.domain.settings import Settings
from repertory.domain.specs import Placement, WeightsForm
from repertory.engines.node_model import NodeModel
from repertory.perf.profiles import prior_profile
from repertory.sim.driver import Simulation
from worlds import WORLDS, faults, workload

TESTS = Path(__file__).parents[1]


def logged(name: str, seed: int, requests: int = 120) -> list[bytes]:
    world = WORLDS[name]()
    log: list[bytes] = []
    controller = Controller(world.settings, lambda one: log.append(encode(one)))
    worker = NodeModel(world.node, prior_profile, faults(seed, 0.1))
    simulation = Simulation(controller, [worker])
    simulation.start(world.models)
    simulation.run(workload(world, seed, requests))
    controller.check()
    return log


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(4))
def test_the_same_events_give_the_same_log(name: str, seed: int) -> None:
    assert logged(name, seed) == logged(name, seed)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_replay_of_a_written_log_gives_the_same_actions_byte_for_byte(
    name: str, seed: int, tmp_path: Path
) -> None:
    path = tmp_path / "decisions.jsonl"
    settings = WORLDS[name]().settings
    lines = logged(name, seed)
    path.write_bytes(encode_header(Header("1", settings, 1)) + b"".join(lines))
    again: list[bytes] = []
    controller = Controller(settings, lambda one: again.append(encode(one)))
    with path.open("rb") as file:
        for entry in read_lines(file):
            controller.handle(decode_event(entry))
    check(controller.state)
    assert again == lines


def test_another_process_writes_the_same_log() -> None:
    """Neither the seed of string hashes nor addresses in memory decide anything."""
    script = (
        "import sys, hashlib; sys.path[:0] = sys.argv[1:]\n"
        "from core.test_replay import logged\n"
        "print(hashlib.sha256(b''.join(logged('vllm', 5))).hexdigest())"
    )
    paths = [str(TESTS), *[one for one in sys.path if one.endswith("src")]]
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, *paths],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_a_line_that_was_cut_off_ends_the_reading() -> None:
    lines = logged("llama", 0, requests=3)
    assert len(list(read_lines([*lines[:4], lines[4][:10]]))) == 4


def test_the_settings_stand_at_the_head_of_a_log() -> None:
    assert b'"favour":"balanced"' in encode_header(Header("1", Settings(), 1))


def test_readings_reach_the_brain_by_its_one_door_and_come_back_out_of_a_log() -> None:
    world = WORLDS["llama"]()
    spec, device = world.models[0], world.node.devices[0]
    steps = tuple(
        StepReading(True, WeightsForm.PLAIN, None, 1.0, batch, batch, 64, (0.5 * batch,) * 3)
        for batch in (1, 2, 4)
    )
    read = DeviceReadings(device.id, device.backend, device.cores, steps=steps)
    log: list[bytes] = []
    controller = Controller(world.settings, lambda one: log.append(encode(one)))
    simulation = Simulation(controller, [NodeModel(world.node, prior_profile)])
    simulation.start(world.models)
    controller.handle(ModelProfiled(0, spec.digest, read))
    here = Placement((device.id,))
    assert controller.state.costs.step_s(spec, here, 3, 192) == pytest.approx(1.5, rel=1e-6)
    events = [decode_event(entry) for entry in read_lines(log)]
    assert events[-1] == ModelProfiled(0, spec.digest, read)


def test_bytes_that_were_read_ahead_are_reserved_whichever_is_heard_first() -> None:
    world = WORLDS["llama"]()
    spec, device = world.models[0], world.node.devices[0]
    memory = (
        MemoryReading(Rung.DEVICE, WeightsForm.PLAIN, None, 0, 0, 1, 700 << 20),
        MemoryReading(Rung.SERVING, WeightsForm.PLAIN, None, 1, 256, 1, (708 << 20) + 256 * 32768),
    )
    read = DeviceReadings(device.id, device.backend, device.cores, memory=memory)
    events = [ModelAdded(0, spec), ModelProfiled(0, spec.digest, read)]
    for told in (events, events[::-1]):
        controller = Controller(world.settings, lambda _: None)
        for event in told:
            controller.handle(event)
        known = controller.state.models[spec.name]
        assert known.measured_weights_bytes == {(WeightsForm.PLAIN, None, False): 700 << 20}
        assert known.measured_buffers_bytes == 8 << 20
