"""An edit of the configuration changes what it says and nothing else; a broken one nothing."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repertory.config import Environment, Flags, Found, MemoryReading, serve_config
from repertory.core.controller import Controller
from repertory.domain.decisions import Decision
from repertory.domain.errors import ConfigError, EngineError
from repertory.domain.events import (
    Event,
    ModelAdded,
    ModelRemoved,
    OperatorAsked,
    SettingsChanged,
    WorkerUp,
)
from repertory.domain.ladder import Rung
from repertory.domain.settings import Favour
from repertory.domain.specs import DeviceSpec
from repertory.engines.contract import ModelDescription, Sampling
from repertory.engines.fake import FakeEngine, llama_like
from repertory.engines.gguf.make import make_model
from repertory.live import catalogue
from repertory.live.driver import Driver
from repertory.live.facade import GenerationOptions
from repertory.live.fit import Room
from repertory.live.reload import Source, Wishes, differences, needs_restart, stamp
from repertory.live.server import Server
from repertory.testing.clock import VirtualLoop, run_virtual
from worlds import GIB, MIB

TEXT = """\
models:
  ant: {path: ant.gguf, aliases: [a], pin: true}
  bee: {path: bee.gguf}
memory: 4GiB
"""
READING = MemoryReading(64 * MIB, 16 * GIB, 24 * GIB)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reload")
    for seed, name in enumerate(("ant", "bee", "cat")):
        make_model(folder / f"{name}.gguf", size="tiny", seed=seed, name=name)
    return folder


@pytest.fixture
def path(files: Path, tmp_path: Path) -> Path:
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    path = tmp_path / "r.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time does not wait for threads: what they would do is done at once."""

    async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)


class Bench:
    """Wishes, a server and a fake worker; `edit` is what an operator does."""

    def __init__(self, loop: VirtualLoop, path: Path) -> None:
        self.path = path
        self.edits = 0
        self.said: list[str] = []
        self.events: list[Event] = []
        self.faults: dict[str, str] = {}
        environment = Environment(None, None, None, Path("/state"))

        def read() -> object:
            return serve_config(path, Flags(), environment, READING, lambda _: Found((), ()))

        source = Source(path, read, stamp(path))  # type: ignore[arg-type]  # a config it is
        self.wishes = Wishes(source.read(), source, self.faults, self.said.append)
        self.server = Server(self.wishes.catalogue, 4 * GIB, random.Random(1))
        self.server.faults = self.faults
        self.controller = Controller(self.wishes.settings, self._record)
        self.driver = Driver(self.controller, self.server, when_quiet=loop.when_quiet)
        self.server.connect(self.controller, self.driver)
        self.asked = asyncio.Event()
        self.watching = loop.create_task(self.wishes.watch(self.asked))

    async def start(self) -> None:
        self.wishes.begin(self.driver, await self.wishes.first_look())
        self.wishes.fit(Room({"cpu0": 2 * GIB}, ""))
        node = llama_like([DeviceSpec("cpu0", 2 * GIB, cores=2)])
        self.engine = FakeEngine(node)
        self.server.use(self.engine)
        self.driver.attach(self.engine, node)
        await asyncio.sleep(3)
        self.events.clear()

    def write(self, text: str) -> None:
        """Each a second later than the last, by the file's own time."""
        self.path.write_text(text)
        self.edits += 1
        os.utime(self.path, (self.edits, self.edits))

    async def edit(self, text: str) -> None:
        """Long enough to be noticed."""
        self.write(text)
        await asyncio.sleep(4)

    def rung(self, name: str) -> Rung:
        (replica,) = self.controller.state.models[name].replicas.values()
        return replica.rung

    def _record(self, decision: Decision) -> None:
        self.events.append(decision.event)
        self.server.decided(decision)


def on_bench(path: Path, play: Callable[[Bench], Awaitable[None]]) -> Bench:
    benches: list[Bench] = []

    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, path)
        benches.append(bench)
        await bench.start()
        await play(bench)
        bench.watching.cancel()
        await asyncio.gather(bench.watching, return_exceptions=True)
        await bench.driver.close()
        await bench.engine.close()
        bench.controller.check()

    run_virtual(main)
    return benches[0]


def kinds(bench: Bench) -> list[type[Event]]:
    return [type(event) for event in bench.events]


def test_only_the_model_that_was_changed_is_touched(path: Path) -> None:
    async def play(bench: Bench) -> None:
        await bench.edit(TEXT.replace("bee.gguf", "bee.gguf, ttl: 5m, priority: batch"))

    bench = on_bench(path, play)
    assert [event.spec.name for event in bench.events if isinstance(event, ModelAdded)] == ["bee"]
    assert bench.rung("ant") is Rung.SERVING
    assert bench.wishes.catalogue.offers["bee"].weight == 0.1
    assert "configuration read again: bee changed (ttl, priority)" in bench.said


def test_another_alias_unloads_nothing_and_running_answers_go_on(path: Path) -> None:
    async def play(bench: Bench) -> None:
        options = GenerationOptions(max_tokens=400, sampling=Sampling(), ignore_eos=True)
        answer = await bench.server.generate(bench.server.resolve("a"), (1, 2, 3), options)
        await bench.edit(TEXT.replace("[a]", "[aa]"))
        assert bench.rung("ant") is Rung.SERVING
        assert bench.server.resolve("aa").name == "ant"
        tokens = [token async for piece in answer for token in piece.tokens]
        assert len(tokens) == 400

    bench = on_bench(path, play)
    assert not {OperatorAsked, ModelRemoved} & set(kinds(bench))


def test_models_come_and_go(path: Path) -> None:
    async def play(bench: Bench) -> None:
        await bench.edit(TEXT.replace("bee: {path: bee.gguf}", "cat: {path: cat.gguf}"))

    bench = on_bench(path, play)
    assert {"cat", "ant"} == set(bench.controller.state.models)
    assert "configuration read again: bee removed; cat added" in bench.said


def test_a_model_that_is_to_be_preloaded_now_is_loaded_now(path: Path) -> None:
    async def play(bench: Bench) -> None:
        await bench.edit(TEXT.replace("bee.gguf", "bee.gguf, preload: true"))

    assert on_bench(path, play).rung("bee") is Rung.SERVING


def test_the_dial_turns_by_an_event(path: Path) -> None:
    async def play(bench: Bench) -> None:
        await bench.edit(TEXT + "favour: latency\n")

    bench = on_bench(path, play)
    assert kinds(bench).count(SettingsChanged) == 1
    assert bench.controller.state.settings.favour is Favour.LATENCY
    assert "configuration read again: favour is now latency" in bench.said


def test_what_cannot_change_is_named_and_the_rest_is_taken_in(path: Path) -> None:
    async def play(bench: Bench) -> None:
        text = TEXT.replace("4GiB", "5GiB").replace("[a]", "[b]")
        await bench.edit(text + "port: 9\nexact: true\n")

    bench = on_bench(path, play)
    assert bench.wishes.config.memory_bytes == 4 * GIB
    assert bench.server.resolve("b").name == "ant"
    assert (
        "configuration read again: ant changed (aliases); memory, port, exact can only change "
        "with a restart, and stayed"
    ) in bench.said


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("pin: tru", "r.yaml:2:44: 'models.ant.pin' must be true or false"),
        ("pin: true, context: 999999", "is more than the 4096 tokens that ant.gguf"),
        ("path: gone.gguf", "is there twice"),
    ],
)
def test_a_broken_edit_changes_nothing_and_is_shown_until_it_is_mended(
    path: Path, edit: str, words: str
) -> None:
    async def play(bench: Bench) -> None:
        text = TEXT.replace("pin: true", edit).replace("[a]", "[b]")
        await bench.edit(text)
        assert bench.events == []
        assert bench.server.resolve("a").name == "ant"
        (fault,) = bench.server.status().faults
        assert words in fault
        assert fault.startswith("configuration: ")
        assert words in bench.said[-1]
        await bench.edit(TEXT.replace("[a]", "[b]"))
        assert bench.server.status().faults == ()
        assert bench.server.resolve("b").name == "ant"

    on_bench(path, play)


def test_models_that_cannot_be_pinned_together_are_a_broken_edit(path: Path) -> None:
    async def play(bench: Bench) -> None:
        bench.wishes.fit(Room({"cpu0": 20 * MIB}, ""))
        await bench.edit(TEXT.replace("bee.gguf", "bee.gguf, pin: true"))
        assert bench.events == []
        assert "the pinned models cannot be loaded together" in bench.said[-1]
        assert f"{path}:2:44: the pinned models" in bench.said[-1]

    on_bench(path, play)


def test_a_model_that_can_never_be_loaded_is_warned_of_once_and_the_rest_is_served(
    path: Path,
) -> None:
    async def play(bench: Bench) -> None:
        await bench.edit(TEXT.replace("pin: true", "pin: false"))
        bench.said.clear()
        bench.wishes.fit(Room({"cpu0": 5 * MIB}, ""))
        await bench.wishes.look_again()
        ant, bee = bench.said
        assert ant.startswith("warning: ant: cannot be served: it needs ")
        assert "the largest device, cpu0, has 5 MiB; give " in bee

    on_bench(path, play)


def test_a_model_that_can_never_be_loaded_is_marked_and_refused_until_a_file_fits(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status(bench: Bench) -> dict[str, tuple[str, str]]:
        return {one.name: (one.status, one.fault or "") for one in bench.server.status().models}

    async def refused(bench: Bench, name: str) -> str:
        with pytest.raises(EngineError) as refusal:
            await bench.server.generate(
                bench.server.resolve(name), (1, 2), GenerationOptions(4, Sampling())
            )
        return str(refusal.value)

    async def play(bench: Bench) -> None:
        assert status(bench)["bee"] == ("unloaded", "")
        real = catalogue.describe_file
        sizes = {"bee.gguf": 9 * GIB}

        def described(place: Path, **named: Any) -> ModelDescription:
            found = real(place, **named)
            size = sizes.get(place.name, found.weights_bytes)
            return replace(found, weights_bytes=size, digest=f"{found.digest}-{size}")

        monkeypatch.setattr(catalogue, "describe_file", described)
        os.utime(path.parent / "bee.gguf", (9, 9))
        await bench.wishes.look_again()
        await asyncio.sleep(1)
        word, fault = status(bench)["bee"]
        assert word == "too_large"
        assert "the largest device, cpu0, has 2,048 MiB; give " in fault
        assert f"bee: {fault}" in bench.server.status().faults
        assert await refused(bench, "bee") == f"bee {fault}"
        assert status(bench)["ant"][0] == "loaded", "the others are served"
        await bench.edit(TEXT.replace("bee.gguf", "cat.gguf"))
        assert status(bench)["bee"] == ("unloaded", "")
        await bench.edit(TEXT)
        assert status(bench)["bee"][0] == "too_large"
        sizes.clear()
        os.utime(path.parent / "bee.gguf", (10, 10))
        await bench.wishes.look_again()
        await asyncio.sleep(1)
        assert status(bench)["bee"] == ("unloaded", "")

    on_bench(path, play)


def test_a_file_that_is_still_being_written_is_left_alone(path: Path) -> None:
    """Two looks must agree."""

    async def play(bench: Bench) -> None:
        bench.said.clear()
        for size in range(0, 60, 10):
            bench.write(TEXT.replace("[a]", "[b]")[:size])
            await asyncio.sleep(1)
        assert bench.said == []
        await bench.edit(TEXT.replace("[a]", "[b]"))
        assert bench.said == ["configuration read again: ant changed (aliases)"]

    on_bench(path, play)


def test_a_file_that_is_gone_is_a_broken_edit(path: Path) -> None:
    async def play(bench: Bench) -> None:
        os.unlink(path)
        await asyncio.sleep(4)
        assert "no such file" in bench.faults["configuration"]
        assert bench.events == []

    on_bench(path, play)


def test_asking_reads_it_at_once_and_says_so(path: Path) -> None:
    async def play(bench: Bench) -> None:
        bench.said.clear()
        bench.asked.set()
        await asyncio.sleep(0.5)
        assert bench.said == ["configuration read again: nothing changed"]

    bench = on_bench(path, play)
    assert WorkerUp not in kinds(bench)


def test_a_look_for_files_does_not_take_an_edit_back(path: Path) -> None:
    async def play(bench: Bench) -> None:
        await bench.edit(TEXT.replace("[a]", "[b]"))
        await bench.wishes.look_again()
        assert bench.server.resolve("b").name == "ant"

    on_bench(path, play)


def test_differences_are_named_by_their_keys(path: Path) -> None:
    environment = Environment(None, None, None, Path("/state"))
    config = serve_config(path, Flags(), environment, READING, lambda _: Found((), ()))
    ant, bee = config.models
    other = replace(ant, path=bee.path, is_pinned=False, context_tokens=7)
    assert differences((ant, bee), (other, bee), []) == ["ant changed (path, pin, context)"]
    assert differences((ant,), (ant,), [("ant", None)]) == ["ant changed (its file)"]
    assert needs_restart(config, replace(config, models=())) == []
    assert needs_restart(config, replace(config, host="::1")) == ["host"]


def test_a_context_beyond_the_training_is_refused_at_the_start(path: Path) -> None:
    path.write_text(TEXT.replace("bee.gguf", "bee.gguf, context: 5000"))
    with pytest.raises(ConfigError, match=r"r\.yaml:3:34: 'models\.bee\.context' 5000 .* 4096"):
        on_bench(path, lambda _: asyncio.sleep(0))
