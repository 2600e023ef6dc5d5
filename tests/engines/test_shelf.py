"""Weights that rest: their pages are given back, and the file stays open for the next load."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from running import Walk, running_engine, spec_of

from repertory.domain.specs import ModelSpec, Placement, WeightsForm
from repertory.engines.llamacpp import weights
from repertory.engines.llamacpp.library import Model
from repertory.engines.llamacpp.vocabulary import Vocabularies
from repertory.engines.llamacpp.weights import Shelf, process_bytes

MIB = 1 << 20
PLAIN = Placement(("cpu0",))
REPACKED = Placement(("cpu0",), form=WeightsForm.REPACKED)


def file_bytes() -> int:
    return process_bytes()["Pss_File"]


def test_weights_that_rest_hold_no_pages_and_are_the_same_model_when_they_come_back(model_file):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file(size="50m"))
    shelf = Shelf()
    held = shelf.take(spec, PLAIN, None)
    model, taken, mapped = held.model, held.weights_bytes, file_bytes()
    assert taken >= spec.weights_bytes
    assert held.first_ns > 0
    shelf.give_back(held)
    assert mapped - file_bytes() > 0.95 * spec.weights_bytes, "its pages are gone"
    again = shelf.take(spec, PLAIN, None)
    assert again.first_ns == 0, "its vocabulary was kept"
    assert again.model is model
    assert again.weights_bytes == taken
    assert mapped - file_bytes() < 0.05 * spec.weights_bytes, "and back"
    shelf.give_back(again)


def test_what_a_worker_will_not_do_again_is_told_with_the_first_move(model_file):  # type: ignore[no-untyped-def]
    """A vocabulary is read, and a few tokens are computed; a part of what the move took."""

    async def play() -> None:
        async with running_engine() as engine:
            walk = Walk(engine, spec_of(model_file(size="50m")))
            firsts: list[list[int]] = []
            for _ in range(2):
                loaded, opened = await walk.load(), await walk.activate(1, 512)
                for one in (loaded, opened):
                    assert 0 <= one.first_ns < one.took_ns
                firsts.append([loaded.first_ns, opened.first_ns])
                grown, closed = await walk.resize(1, 1024), await walk.deactivate()
                assert (grown.first_ns, closed.first_ns) == (0, 0)
                assert (await walk.unload()).first_ns == 0
            assert all(firsts[0])
            assert firsts[1] == [0, 0]

    asyncio.run(play())


def test_weights_that_were_copied_are_freed(model_file):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file(weights="q4_0"))
    freed: list[str] = []
    shelf = Shelf(leaving=lambda location, _: freed.append(location))
    held = shelf.take(spec, REPACKED, None)
    assert held.first_ns == 0, "the next load will read its vocabulary again"
    model = held.model
    shelf.give_back(held)
    assert model.handle is None
    assert freed == [], "nobody was told of it, so nobody has to be told"


class Watched:
    """What the kernel says before and after each time that a file's pages are let go of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before: list[int] = []
        self.after: list[int] = []
        self.strange: list[weights._Range] = []
        """Let go of, but not, or no longer, the file's."""

    def let_go(self, ranges: list[weights._Range]) -> None:
        own = weights._mapped_ranges((self.path,))
        self.strange += [
            one
            for one in ranges
            if not any(own.start <= one.start and one.end <= own.end for own in own)
        ]
        self.before.append(file_bytes())
        for one in ranges:
            weights._libc.madvise(one.start, one.end - one.start, weights._MADV_DONTNEED)
        self.after.append(file_bytes())


def test_pages_are_let_go_of_while_their_weights_are_copied(  # type: ignore[no-untyped-def]
    model_file, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All along the way, so that a file and its copy are never held together."""
    path = model_file(size="50m", weights="q4_0")
    spec = spec_of(path)
    watched = Watched(path)
    monkeypatch.setattr(weights, "_let_go", watched.let_go)
    resting = file_bytes()
    shelf = Shelf()
    held = shelf.take(spec, REPACKED, None)
    assert watched.before[0] - resting > 0.9 * spec.weights_bytes, "all of it is mapped first"
    on_the_way = list(zip(watched.before, watched.after, strict=True))[1:]
    assert sum(before - after for before, after in on_the_way) > 0.7 * spec.repacked_bytes
    assert max(watched.before[1:]) - resting < 0.4 * spec.weights_bytes, "a tensor or two"
    assert file_bytes() - resting < 0.05 * spec.weights_bytes, "none is left at the end"
    shelf.give_back(held)


def test_what_is_let_go_of_during_a_load_is_the_file_s_own(  # type: ignore[no-untyped-def]
    model_file, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library unmaps what it copied before the load is over.  From then on the same addresses
    are anybody's, and letting go of them would zero another thread's memory.
    """
    path = model_file(size="50m", weights="q4_0")
    watched = Watched(path)
    monkeypatch.setattr(weights, "_let_go", watched.let_go)
    shelf = Shelf()
    shelf.give_back(shelf.take(spec_of(path), REPACKED, None))
    assert len(watched.before) > 5
    assert watched.strange == []


def test_copied_weights_are_their_anonymous_bytes_and_what_is_looked_up_in_the_file(  # type: ignore[no-untyped-def]
    model_file,
) -> None:
    spec = spec_of(model_file(size="50m", weights="q4_0"))
    before = process_bytes()["Anonymous"]
    shelf = Shelf()
    held = shelf.take(spec, REPACKED, None)
    looked_up = spec.weights_bytes - spec.repacked_bytes
    assert looked_up > 0
    copied = held.weights_bytes - looked_up
    assert copied >= spec.repacked_bytes
    assert abs(process_bytes()["Anonymous"] - before - copied) < 2 * MIB
    assert held.mapped == []
    shelf.give_back(held)


@pytest.fixture
def three(model_file) -> list[ModelSpec]:  # type: ignore[no-untyped-def]
    return [spec_of(model_file(seed=seed), f"m{seed}") for seed in range(3)]


def test_what_rests_is_bounded_and_the_oldest_goes(
    three: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    shelf = Shelf(
        opened=lambda location, _: told.append(("opened", location)),
        leaving=lambda location, _: told.append(("leaving", location)),
    )
    held = [shelf.take(spec, PLAIN, None) for spec in three]
    room = sum(one.anonymous_bytes for one in held[1:])
    monkeypatch.setattr(weights, "_RESTING_BYTES", room)
    for one in held:
        shelf.give_back(one)
    places = [spec.location for spec in three]
    assert told == [*(("opened", place) for place in places), ("leaving", places[0])]
    assert held[0].model.handle is None
    assert held[1].model.handle is not None


def test_what_rests_of_a_replaced_file_is_freed(model_file) -> None:  # type: ignore[no-untyped-def]
    old = replace(spec_of(model_file(seed=1)), digest="older")
    shelf = Shelf()
    held = shelf.take(old, PLAIN, None)
    shelf.give_back(held)
    fresh = shelf.take(replace(old, digest="newer"), PLAIN, None)
    assert held.model.handle is None
    assert fresh.model.handle is not None


def test_a_vocabulary_is_opened_once_and_follows_its_model(model_file) -> None:  # type: ignore[no-untyped-def]
    """Lent by a model that is open as a whole; by itself before and after."""
    path: Path = model_file()
    place = str(path)
    own = Vocabularies(lambda _: True)
    expected = own.tokenize(place, "to be")
    before = own._open(place).model
    whole = Model(path)
    own.adopt(place, whole)
    assert before.handle is None, "the second one is freed"
    assert own._open(place).model is whole
    assert own.tokenize(place, "to be") == expected
    own.release(place, whole)
    whole.free()
    assert own.tokenize(place, "to be") == expected


def test_vocabularies_of_closed_models_are_few_and_lent_ones_do_not_count(model_file) -> None:  # type: ignore[no-untyped-def]
    own = Vocabularies(lambda _: True)
    lender = model_file(seed=9)
    own.adopt(str(lender), Model(lender))
    paths = [model_file(seed=seed) for seed in range(4)]
    models = []
    for path in (lender, *paths):
        own.tokenize(str(path), "x")
        models.append(own._open(str(path)).model)
    assert [model.handle is None for model in models] == [False, True, False, False, False]
