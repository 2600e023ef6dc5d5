"""The demonstration's parts; the whole of it is `make demo`."""

import random
from pathlib import Path

import pytest

from demo.log import LogReader
from demo.models import RECIPES, budget_for_two
from demo.screen import Scene
from demo.server import Memory
from demo.summary import broken_promises
from demo.workload import CLIENTS, Answered, Ask, plan
from repertory.core import journal
from repertory.domain.actions import Action, Dispatch, Load, Unload
from repertory.domain.decisions import Decision, Verdict
from repertory.domain.events import Arrived, Event, Measured, TransitionDone
from repertory.domain.ladder import Rung
from repertory.domain.requests import Request
from repertory.domain.settings import Settings
from repertory.domain.specs import Placement
from repertory.engines.contract import ModelDescription

MIB = 2**20
NAMES = ["a", "b", "c", "d"]


def test_equal_seeds_are_equal_workloads() -> None:
    first, again, other = (plan(NAMES, random.Random(seed)) for seed in (7, 7, 8))
    assert first == again != other


@pytest.mark.parametrize("seed", range(20))
def test_a_workload_is_for_all_models_and_clients_in_order_of_time(seed: int) -> None:
    asks = plan(NAMES, random.Random(seed))
    assert {ask.model for ask in asks} == set(NAMES)
    assert {ask.client for ask in asks} == set(range(CLIENTS))
    assert [ask.at_s for ask in asks] == sorted(ask.at_s for ask in asks)


def test_the_budget_fits_the_two_largest_and_not_three(monkeypatch: pytest.MonkeyPatch) -> None:
    def described(path: Path) -> ModelDescription:
        weights_bytes = int(path.stem) * MIB
        return ModelDescription("d", "llama", weights_bytes, 0, 8, 4096, 8192, 32000, MIB, True)

    monkeypatch.setattr("demo.models.describe_file", described)
    sizes = (137, 258, 258, 137)
    budget = budget_for_two([Path(f"{size}.gguf") for size in sizes])
    for_models_mib = budget.bytes / MIB - 200
    assert 2 * 258 < for_models_mib < 3 * 258
    assert len(sizes) == len(RECIPES)


def write(path: Path, *steps: tuple[Event, tuple[Action, ...], tuple[Verdict, ...]]) -> None:
    with path.open("ab") as log:
        for number, (event, actions, verdicts) in enumerate(steps):
            log.write(journal.encode(Decision(number, event, actions, verdicts)))


def load(action_id: int, model: str) -> Load:
    return Load(action_id, f"{model}/1", model, "local", Placement(("cpu0",)), Rung.HOST)


def done(at_ns: int, action_id: int) -> TransitionDone:
    return TransitionDone(at_ns, action_id, "a/1", Measured(took_ns=500_000_000))


def test_the_log_tells_cold_requests_from_warm_ones(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    reader = LogReader(path)
    reader.catch_up()
    path.write_bytes(journal.encode_header(journal.Header("0", Settings(), 0)))
    evict = Verdict("evict", "b", "unload b/1", "makes room for a: it is idle", (), (1,))
    loads = Verdict("load", "a", "load a/1", "1 wait", (), (2,))
    sent = Dispatch("cold", "a/1", "local"), Dispatch("warm", "a/1", "local")
    write(
        path,
        (Arrived(1, Request("cold", "a", 3, 4)), (Unload(1, "b/1", "b", "local"),), (evict,)),
        (done(2, 1), (load(2, "a"),), (loads,)),
    )
    with path.open("ab") as log:
        log.write(b'{"step"')  # the writer is in the middle of a line
    reader.catch_up()
    assert reader.loads == 0
    path.write_bytes(path.read_bytes().removesuffix(b'{"step"'))
    write(
        path,
        (done(3, 2), sent[:1], ()),
        (Arrived(4, Request("warm", "a", 3, 4)), sent[1:], ()),
    )
    reader.catch_up()
    assert reader.load_seconds["a"] == [0.5]
    assert reader.evictions["b"] == 1
    assert reader.waits["cold"].is_cold
    assert not reader.waits["warm"].is_cold
    assert reader.example("evict") == "cold"
    assert reader.example("load") is None


def test_a_demonstration_that_failed_says_so(tmp_path: Path) -> None:
    scene = Scene(2, 100 * MIB, Memory(peak_bytes=101 * MIB), LogReader(tmp_path / "none"))
    ask = Ask(1.0, 0, "a", "hello", 4, 1)
    scene.answered += [Answered(ask, "", None, 0, "APIError: gone")]
    broken = "\n".join(broken_promises(scene))
    for words in ("APIError: gone", "only 1 of 2", "exceeded by 1.0 MiB", "nothing was evicted"):
        assert words in broken
