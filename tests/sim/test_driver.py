"""The heap of events: whatever comes at one instant has an order."""

from repertory.domain.actions import Action
from repertory.domain.events import (
    Event,
    ModelAdded,
    OperatorAsked,
    SettingsChanged,
    Wish,
)
from repertory.domain.settings import Favour, Settings
from repertory.sim.driver import Simulation
from worlds import GIB, model


class Heard:
    """A brain that only listens."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> list[Action]:
        self.events.append(event)
        return []


def heard(*events: Event) -> list[Event]:
    brain = Heard()
    simulation = Simulation(brain, [])
    simulation.tell(events)
    simulation.run(())
    return brain.events


def test_of_one_name_and_instant_what_was_told_first_is_heard_first() -> None:
    """A dial that is turned twice at once stands where it was turned last; as in the live driver,
    whose inbox has the same key."""
    turned: list[Event] = [
        SettingsChanged(5, Settings(favour=favour))
        for favour in (Favour.THROUGHPUT, Favour.LATENCY, Favour.BALANCED, Favour.LATENCY)
    ]
    assert heard(*turned) == turned
    assert heard(*reversed(turned)) == turned[::-1]


def test_a_model_that_changes_twice_at_one_instant_is_as_it_was_told_last() -> None:
    changed: list[Event] = [ModelAdded(5, model("a", size)) for size in (3 * GIB, GIB, 2 * GIB)]
    assert heard(*changed) == changed


def test_kinds_and_names_come_before_the_order_of_telling() -> None:
    late = SettingsChanged(6, Settings())
    wish = OperatorAsked(5, "a", Wish.LOAD)
    first, other = ModelAdded(5, model("b")), ModelAdded(5, model("a"))
    assert heard(late, wish, first, other) == [other, first, wish, late]
