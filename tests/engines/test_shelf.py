"""Weights that rest: their pages are given back, and the file stays open for the next load."""

from dataclasses import replace
from pathlib import Path

import pytest
from running import spec_of

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
    shelf.give_back(held)
    assert mapped - file_bytes() > 0.95 * spec.weights_bytes, "its pages are gone"
    again = shelf.take(spec, PLAIN, None)
    assert again.model is model
    assert again.weights_bytes == taken
    assert mapped - file_bytes() < 0.05 * spec.weights_bytes, "and back"
    shelf.give_back(again)


def test_weights_that_were_copied_are_freed(model_file):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file(weights="q4_0"))
    freed: list[str] = []
    shelf = Shelf(leaving=lambda location, _: freed.append(location))
    held = shelf.take(spec, REPACKED, None)
    model = held.model
    shelf.give_back(held)
    assert model.handle is None
    assert freed == [], "nobody was told of it, so nobody has to be told"


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
