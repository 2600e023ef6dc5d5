"""Where a model goes when several places would do."""

from repertory.core.controller import Controller
from repertory.domain.actions import Dispatch, Load
from repertory.domain.decisions import Decision
from repertory.domain.events import (
    Arrived,
    Event,
    Measured,
    ModelAdded,
    TransitionDone,
    WorkerUp,
)
from repertory.domain.requests import Request
from repertory.domain.settings import Settings
from repertory.domain.specs import DeviceSpec
from repertory.engines.fake import llama_like
from worlds import GIB, model


class Brain:
    """A controller whose transitions are done as soon as they are begun."""

    def __init__(self, devices: list[DeviceSpec]) -> None:
        self.decisions: list[Decision] = []
        self.controller = Controller(Settings(), self.decisions.append)
        self.now_ns = 0
        self.send(WorkerUp(0, llama_like(devices)))
        for name in "ab":
            self.send(ModelAdded(0, model(name)))

    def send(self, event: Event) -> None:
        todo = self.controller.handle(event)
        while todo:
            action = todo.pop(0)
            if hasattr(action, "action_id"):
                self.now_ns += 1_000_000
                done = TransitionDone(
                    self.now_ns, action.action_id, action.replica_id, Measured(1_000_000)
                )
                todo += self.controller.handle(done)

    def ask(self, name: str) -> str:
        """Ask for a model; the device that it went to."""
        self.now_ns += 1_000_000_000
        self.send(Arrived(self.now_ns, Request(f"r{self.now_ns}", name, 100, 50)))
        self.controller.check()
        actions = [action for one in self.decisions for action in one.actions]
        assert any(isinstance(one, Dispatch) for one in actions)
        return next(
            one.placement.devices[0]
            for one in reversed(actions)
            if isinstance(one, Load) and one.model == name
        )


def test_a_busy_device_is_passed_over_for_an_idle_one() -> None:
    brain = Brain([DeviceSpec("dev0", 4 * GIB, cores=1), DeviceSpec("dev1", 4 * GIB, cores=1)])
    assert (brain.ask("a"), brain.ask("b")) == ("dev0", "dev1")


def test_an_accelerator_is_preferred_to_cores() -> None:
    gpu = DeviceSpec("vulkan0", 4 * GIB, backend="vulkan")
    brain = Brain([DeviceSpec("cpu0", 4 * GIB, cores=2), gpu])
    assert brain.ask("a") == "vulkan0"


def test_cores_serve_what_the_accelerator_cannot_hold() -> None:
    gpu = DeviceSpec("vulkan0", GIB // 16, backend="vulkan")
    brain = Brain([DeviceSpec("cpu0", 4 * GIB, cores=2), gpu])
    assert brain.ask("a") == "cpu0"
