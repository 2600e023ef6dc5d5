"""What the ends of moves, prompts and copies teach the brain, and what they cannot teach."""

from dataclasses import replace

import pytest

from core.play import Copy, Play
from repertory.core.costbook import CostBook
from repertory.domain.decisions import Verdict
from repertory.domain.events import FirstToken, Measured, TransitionDone
from repertory.domain.ladder import Rung
from repertory.domain.settings import Settings
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec, Placement, WeightsForm
from repertory.perf.profiles import KV_IN, KV_OUT, LOAD_KEYS, prior_profile
from worlds import GIB, MIB, World, llama_world, model

SECOND = 10**9
KV = KvShape(1, 1024)
HERE = Placement(("cpu0",))
WORDS_S, PAGES_S, FEW_TOKENS_S, CELLS_S = 0.1, 0.3, 0.12, 0.05


class Timed(Play):
    """A worker whose first load of a model reads its vocabulary, and whose first context computes
    a few tokens.
    """

    def _measured(self, replica_id: str, copy: Copy) -> Measured:
        measured = super()._measured(replica_id, copy)
        seen = self.__dict__.setdefault("seen", set())
        if copy.rung not in (Rung.DEVICE, Rung.SERVING):
            return measured
        first_s, more_s = (WORDS_S, PAGES_S) if copy.kv is None else (FEW_TOKENS_S, CELLS_S)
        kind = (copy.model, copy.kv is None)
        is_first = kind not in seen
        seen.add(kind)
        took_s = more_s + first_s if is_first else more_s
        took_ns = round(took_s * SECOND)
        return replace(measured, took_ns=took_ns, first_ns=round(first_s * SECOND) * is_first)

    def die(self) -> None:
        self.__dict__["seen"] = set()
        super().die()


@pytest.fixture
def play() -> Timed:
    """Room for one of two models."""
    world = llama_world(models=2, memory_gib=1.4)
    return Timed(World(world.node, world.models, Settings(prewarm=False)))


def use(play: Play, name: str) -> None:
    """It is loaded, in the other's place, and answers."""
    asked = play.ask(name, 50, 4)
    play.load_all()
    play.finish(asked)
    play.pass_s(60.0)


def loads(play: Play, name: str) -> list[float]:
    """What was predicted of each of its loads."""
    return [
        one.predicted_s
        for each in play.decisions
        for one in each.verdicts
        if one.rule == "load" and one.subject == name and one.predicted_s is not None
    ]


def at(play: Play, name: str) -> tuple[ModelSpec, Placement]:
    return play.specs[name], Placement(("dev0",))


def test_what_a_worker_keeps_of_a_first_load_is_no_part_of_the_next_ones(play: Timed) -> None:
    """Each model reads its vocabulary once; the third load of all is the first that does not."""
    for name in ("a", "b", "a"):
        use(play, name)
    costs = play.state.costs
    spec, where = at(play, "a")
    assert costs.load_s(spec, where, Rung.DISK) == pytest.approx(PAGES_S)
    assert costs.load(spec, where, Rung.DISK).seconds == pytest.approx(PAGES_S)
    shape = next(iter(play.state.models["a"].replicas.values())).kv
    assert shape is not None
    assert costs.activate_s(spec, where, shape) == pytest.approx(CELLS_S, rel=0.05)
    play.end()


def test_a_first_load_is_predicted_with_what_the_first_loads_of_others_took(play: Timed) -> None:
    use(play, "a")
    spec, where = at(play, "b")
    assert play.state.costs.load_s(spec, where, Rung.DISK) == pytest.approx(PAGES_S + WORDS_S)
    use(play, "b")
    assert loads(play, "b")[0] == pytest.approx(PAGES_S + WORDS_S)
    play.end()


def test_a_new_worker_reads_what_the_dead_one_kept(play: Timed) -> None:
    use(play, "a")
    spec, where = at(play, "a")
    assert play.state.costs.load_s(spec, where, Rung.DISK) == pytest.approx(PAGES_S)
    play.die()
    play.up()
    assert play.state.costs.load_s(spec, where, Rung.DISK) == pytest.approx(PAGES_S + WORDS_S)
    play.end()


def test_where_no_first_move_was_ever_told_apart_nothing_is_added() -> None:
    """So it is in the simulator, and with engines that do not say."""
    spec, costs = model("a"), CostBook()
    costs.add_device(DeviceSpec("cpu0", 8 * GIB, cores=2))
    costs.add(spec)
    law = prior_profile(spec, DeviceSpec("cpu0", 8 * GIB, cores=2))
    law_s = law.load[WeightsForm.PLAIN, Rung.HOST].seconds(spec.weights_bytes)
    assert costs.load_s(spec, HERE, Rung.HOST) == law_s
    assert LOAD_KEYS[WeightsForm.PLAIN, Rung.HOST] not in law.errors


def prompts(costs: CostBook, spec: ModelSpec, tokens: int, took_s: float, times: int = 1) -> None:
    for _ in range(times):
        costs.observe_generation(spec, HERE, (tokens, took_s), (0, 0.0), 1)


def test_a_prompt_of_three_tokens_teaches_nothing_of_longer_ones() -> None:
    """It takes what reading the weights takes, however few they are."""
    spec, costs = model("a"), CostBook()
    costs.add(spec)
    before_s, step_s = costs.work_s(spec, HERE, 1000, 0), costs.step_s(spec, HERE, 1, 0)
    prompts(costs, spec, 3, 1.2 * step_s, times=200)
    assert costs.work_s(spec, HERE, 1000, 0) == before_s
    assert costs.load(spec, HERE, Rung.HOST).basis == "prior"


def test_short_prompts_teach_little_and_long_ones_as_before() -> None:
    spec = model("a")
    learned: dict[int, float] = {}
    for tokens in (8, 20, 100, 1000):
        costs = CostBook()
        costs.add(spec)
        law_s, before_s = costs.work_s(spec, HERE, tokens, 0), costs.work_s(spec, HERE, 1000, 0)
        prompts(costs, spec, tokens, 3.0 * law_s)
        learned[tokens] = costs.work_s(spec, HERE, 1000, 0) / before_s
    assert 1.0 < learned[8] < learned[20] < learned[100]
    assert learned[100] == learned[1000] == pytest.approx(3.0)


def test_a_machine_that_is_slower_than_thought_is_learned_from_short_prompts_too() -> None:
    """Of twenty tokens, as people ask: what they tell adds up."""
    spec, costs = model("a"), CostBook()
    costs.add(spec)
    took_s, before_s = 3.0 * costs.work_s(spec, HERE, 20, 0), costs.work_s(spec, HERE, 1000, 0)
    prompts(costs, spec, 20, took_s, times=40)
    assert costs.work_s(spec, HERE, 1000, 0) == pytest.approx(3.0 * before_s, rel=0.05)


def said(play: Play) -> list[Verdict]:
    return [one for each in play.decisions for one in each.verdicts if one.rule == "kv"]


def test_copies_of_kv_are_compared_with_their_law_and_correct_it(play: Timed) -> None:
    """Also of cells whose slot another conversation took between two steps."""
    name = play.ask("a", 50, 4)
    play.load_all()
    spec, where = at(play, "a")
    law_s = play.state.costs.copy(spec, where, KV_OUT, 8 * MIB).seconds
    back_s = play.state.costs.copy(spec, where, KV_IN, 4 * MIB).seconds
    took_ns = round(3 * law_s * SECOND)
    event = FirstToken(play.now_ns, name, 40, 4 * MIB, SECOND, Rung.HOST, 8 * MIB, took_ns)
    play.started.add(name)
    play.send(event)
    out, back = said(play)
    assert (out.subject, out.choice, out.basis) == (name, "8 MiB out", "prior")
    assert out.predicted_s == pytest.approx(law_s)
    assert out.measured_s == pytest.approx(3 * law_s)
    assert (back.choice, back.measured_s) == ("4 MiB back", 1.0)
    assert back.predicted_s == pytest.approx(back_s)
    assert play.state.costs.copy(spec, where, KV_OUT, 8 * MIB).seconds == pytest.approx(3 * law_s)
    assert play.state.costs.copy(spec, where, KV_IN, 4 * MIB).basis == "measured"
    play.end()


def test_what_comes_back_from_the_disk_says_nothing_of_copies(play: Timed) -> None:
    name = play.ask("a", 50, 4)
    play.load_all()
    play.started.add(name)
    play.send(FirstToken(play.now_ns, name, 40, 4 * MIB, SECOND, Rung.DISK))
    assert said(play) == []
    play.end()


def test_what_a_move_copied_out_is_learned_of_the_law_of_copies(play: Timed) -> None:
    use(play, "a")
    play.ask("b", 50, 4)  # it wants the room
    (action_id,) = play.pending
    replica_id = play.pending[action_id].replica_id
    copy = play.copies[replica_id]
    play.pending.pop(action_id)
    copy.moving, copy.rung, copy.kv = None, Rung.DEVICE, None
    told = Measured(SECOND, GIB, 0, 0, kv_saved_bytes=8 * MIB, kv_saved_ns=SECOND // 4)
    play.send(TransitionDone(play.now_ns, action_id, replica_id, told))
    (out,) = said(play)
    assert (out.subject, out.measured_s) == ("a", 0.25)
    spec, where = at(play, "a")
    assert play.state.costs.copy(spec, where, KV_OUT, 8 * MIB).seconds == pytest.approx(0.25)
    play.end()
