"""A vocabulary is read in a throwaway child before a worker opens it."""

import asyncio
import subprocess
import sys
import threading

import psutil
import pytest
from lying import with_lying_words
from running import Listener, RunningWorker, Walk, generation, running_worker, spec_of

from bench.fuzz.gguf_layout import Layout, text
from repertory.domain.errors import BadRequest, LoadFailed, OutOfMemory, Quarantined
from repertory.engines.contract import GrammarKind, Sampling
from repertory.engines.gguf.make import make_model
from repertory.engines.llamacpp.trial import Trials
from repertory.engines.llamacpp.vocabulary import Vocabularies

GENUINE = (sys.executable, "-m", "repertory.engines.llamacpp.trial")
HI = [{"role": "user", "content": "hi"}]
_DEADLINE_S = 60.0


def child(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


PROVES = child("print('{}')")
NEVER = child("raise SystemExit('nobody may ask again')")


def test_words_are_proven_once_and_are_not_the_whole(model_file, tmp_path):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file())
    Trials(tmp_path, GENUINE).prove_words(spec.location, spec.digest)
    again = Trials(tmp_path, NEVER)
    assert again.has_words(spec.digest)
    again.prove_words(spec.location, spec.digest)
    with pytest.raises(Exception, match="nobody may ask again"):
        again.prove(spec)


def test_a_file_that_was_proven_whole_has_proven_words(model_file, tmp_path):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file())
    Trials(tmp_path, GENUINE).prove(spec)
    assert Trials(tmp_path, NEVER).has_words(spec.digest)
    Trials(tmp_path, NEVER).prove_words(spec.location, spec.digest)


def test_words_that_cannot_be_read_are_not_tried_at_every_request(tmp_path):  # type: ignore[no-untyped-def]
    counted = tmp_path / "tries"
    trials = Trials(
        tmp_path,
        child(f"open({str(counted)!r}, 'a').write('x'); print('{{\"error\": \"no\"}}'); exit(1)"),
    )
    for _ in range(3):
        with pytest.raises(LoadFailed, match="cannot be loaded: no"):
            trials.prove_words("broken.gguf", "its digest")
    assert counted.read_text() == "x"
    with pytest.raises(LoadFailed):
        trials.prove_words("another.gguf", "another digest")
    assert counted.read_text() == "xx"


@pytest.mark.parametrize("form", ["words", "whole"])
def test_lying_words_are_found_whichever_way_a_file_is_tried(form, model_file, tmp_path):  # type: ignore[no-untyped-def]
    path = with_lying_words(model_file(), tmp_path / "lying.gguf")
    spec = spec_of(path)
    trials = Trials(tmp_path, GENUINE)
    with pytest.raises(Quarantined, match=r"lying\.gguf is quarantined.*SIGABRT.*Replace the file"):
        trials.prove(spec) if form == "whole" else trials.prove_words(str(path), spec.digest)
    known = Trials(tmp_path, NEVER)
    assert not known.has_words(spec.digest)
    with pytest.raises(Quarantined, match="SIGABRT"):
        known.prove(spec)
    with pytest.raises(Quarantined, match="SIGABRT"):
        known.prove_words(str(path), spec.digest)


def test_a_trial_of_words_that_lacked_memory_says_nothing_of_the_file(model_file, tmp_path):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file())
    killed = child("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(OutOfMemory):
        Trials(tmp_path, killed).prove_words(spec.location, spec.digest)
    Trials(tmp_path, PROVES).prove_words(spec.location, spec.digest)


def test_the_worse_of_two_trials_at_once_is_remembered(model_file, tmp_path):  # type: ignore[no-untyped-def]
    """The words of a file and its whole; each begins before the other has ended."""
    spec = spec_of(model_file())
    both = threading.Barrier(2, timeout=_DEADLINE_S)

    class Together(Trials):
        def _remember(self, *arguments):  # type: ignore[no-untyped-def]
            both.wait()
            super()._remember(*arguments)

    trials = Together(tmp_path, PROVES)
    words = threading.Thread(target=trials.prove_words, args=(spec.location, spec.digest))
    words.start()
    trials.prove(spec)
    words.join()
    assert not trials.is_running
    Trials(tmp_path, NEVER).prove(spec)


def test_what_cannot_be_written_down_is_known_all_the_same(model_file, tmp_path):  # type: ignore[no-untyped-def]
    (tmp_path / "state").write_text("no folder")
    trials = Trials(tmp_path / "state", PROVES)
    spec = spec_of(model_file())
    trials.prove_words(spec.location, spec.digest)
    assert trials.has_words(spec.digest)


def test_a_worker_survives_lying_words_and_so_does_a_stream(model_file, tmp_path):  # type: ignore[no-untyped-def]
    path = with_lying_words(model_file(), tmp_path / "lying.gguf")
    lying, good = spec_of(path, "lying"), spec_of(model_file())
    state = ("--state-dir", str(tmp_path))

    async def refuse_all(worker: RunningWorker) -> None:
        engine = worker.engine
        for asked in (
            engine.tokenize(str(path), "hi"),
            engine.render(str(path), HI),
            engine.detokenize(str(path), [5]),
            engine.grammar(str(path), GrammarKind.GBNF, 'root ::= "a"'),
            Walk(engine, lying, "bad").load(),
        ):
            with pytest.raises(Quarantined, match="SIGABRT"):
                await asked

    async def run() -> None:
        async with running_worker(*state) as worker:
            await Walk(worker.engine, good).serve(1, 2048)
            listener = Listener(worker.engine)
            await worker.engine.submit("r1", generation("stream", [5, 6], 1500))
            await listener.reach("stream", 1)
            await refuse_all(worker)
            (answer,) = await listener.finish(["stream"])
            assert (answer.error, len(answer.tokens)) == (None, 1500)
            assert worker.process.poll() is None
        async with running_worker(*state) as again:
            await refuse_all(again)
            path.write_bytes(model_file(seed=5).read_bytes())
            assert await again.engine.tokenize(str(path), "hi")

    asyncio.run(run())


def test_others_words_are_read_while_a_trial_runs_and_who_waits_for_it_shares_it(  # type: ignore[no-untyped-def]
    model_file, tmp_path
):
    """The trial is stopped, so that it runs for as long as it is looked at."""
    known, new = spec_of(model_file()), str(model_file(seed=8))

    async def run() -> None:
        async with running_worker("--state-dir", str(tmp_path)) as worker:
            engine = worker.engine
            await Walk(engine, known).serve(1, 256)
            waiting = [asyncio.create_task(engine.tokenize(new, "hi")) for _ in range(3)]
            trial = await trial_of(worker)
            trial.suspend()
            assert await engine.tokenize(known.location, "hi")
            assert not any(one.done() for one in waiting)
            trial.kill()
            lost = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(one) for one in lost] == [OutOfMemory] * 3
            assert await engine.tokenize(new, "hi")

    asyncio.run(run())


@pytest.mark.parametrize("greedy", ["'x' * 10**9", "10**9 * [0]", "2 ** (10 ** 8)"])
def test_a_template_that_asks_for_all_memory_gets_an_answer(greedy, model_file, tmp_path):  # type: ignore[no-untyped-def]
    layout = Layout.read(model_file().read_bytes())
    layout.key("chat_template").value = text(b"{{ '-' * 3 }}{{ %s }}" % greedy.encode())
    path = tmp_path / "greedy.gguf"
    path.write_bytes(layout.build())
    vocabularies = Vocabularies(lambda _: True)
    with pytest.raises(BadRequest, match="asks for too much"):
        vocabularies.render(str(path), HI, {})
    assert vocabularies.tokenize(str(path), "hi")
    Trials(None, GENUINE).prove_words(str(path), "greedy")


WAITS = """
import threading
from repertory.engines.llamacpp.trial import die_with_parent
die_with_parent()
print("ready", flush=True)
threading.Event().wait()
"""
STARTS = """
import subprocess, sys
trial = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
sys.stdout.write(trial.stdout.readline().decode())
sys.stdout.flush()
trial.wait()
"""


def test_a_trial_does_not_outlive_its_worker() -> None:
    """Both hold the one end of a pipe, and the other end hears when neither does any more."""
    command = [sys.executable, "-c", STARTS, WAITS]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as worker:
        assert worker.stdout is not None
        assert worker.stderr is not None
        assert worker.stdout.readline() == b"ready\n"
        worker.kill()
        assert worker.stderr.read() == b""


def test_a_grammar_of_a_file_that_changed_meanwhile_waits_for_its_trial(model_file, tmp_path):  # type: ignore[no-untyped-def]
    """And what is said about its generation afterwards applies afterwards."""
    path = tmp_path / "model.gguf"
    path.write_bytes(model_file().read_bytes())
    spec = spec_of(path)

    async def run() -> None:
        async with running_worker("--state-dir", str(tmp_path)) as worker:
            engine = worker.engine
            await Walk(engine, spec).serve(2, 256)
            listener = Listener(engine)
            make_model(tmp_path / "new", size="tiny", seed=8)
            (tmp_path / "new").replace(path)
            sampling = Sampling(temperature=0.0, grammar='root ::= "a" "b"')
            asked = [generation(name, [5], 8, sampling=sampling, ignore_eos=False) for name in "xy"]
            begun = [asyncio.create_task(engine.submit("r1", one)) for one in asked]
            trial = await trial_of(worker)
            trial.suspend()
            cancelled = asyncio.create_task(engine.cancel("x"))
            assert await engine.stats()
            assert not cancelled.done()
            trial.resume()
            await asyncio.gather(*begun, cancelled)
            (answer,) = await listener.finish(["y"])
            assert answer.text == "ab"

    asyncio.run(run())


async def trial_of(worker: RunningWorker) -> psutil.Process:
    """Another process's state can be seen, but not awaited."""
    async with asyncio.timeout(_DEADLINE_S):
        while True:
            for one in psutil.Process(worker.process.pid).children():
                if "repertory.engines.llamacpp.trial" in one.cmdline():
                    return one
            await asyncio.sleep(0.005)
