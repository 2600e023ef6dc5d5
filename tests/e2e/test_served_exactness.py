"""Four models, room for two, 200 interleaved requests: nothing fails, nothing changes.

The reference of a request: a worker that runs nothing else loads the model anew, makes a new
context of one sequence, runs the request, and unloads.
"""

import asyncio
import itertools
import math
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from play import Answered, Asked
from running import Listener, Walk, running_engine, spec_of
from serving import FOUR, Sampler

from repertory.core.journal import read_lines
from repertory.engines.contract import GenerationSpec

MIB = 2**20
REQUESTS = 200
MEMORY_BYTES = 352 * MIB
"""172 MiB of it are overhead; the rest holds the two largest models with their KV."""
COMPARED = 30
"""Requests of the fast mode that are run alone as well, to state the difference."""


def workload(seed: int) -> list[Asked]:
    """Bursts of one to six requests per model; one prompt in 40 is 1,000 to 1,500 tokens long,
    and some begin like an earlier one, so that prefixes are reused.
    """
    luck = random.Random(seed)
    opening = tuple(luck.randrange(300, 30_000) for _ in range(140))
    asked: list[Asked] = []
    while len(asked) < REQUESTS:
        model = luck.choice(FOUR)[0]
        for _ in range(luck.randint(1, 6)):
            is_long = luck.random() < 1 / 40
            tokens = luck.randint(1000, 1500) if is_long else luck.randint(8, 120)
            prompt = tuple(luck.randrange(300, 30_000) for _ in range(tokens))
            if luck.random() < 0.1:
                prompt = opening + prompt[:60]
            asked.append(Asked(model, prompt, luck.randint(2, 10), len(asked)))
    return asked[:REQUESTS]


@dataclass(frozen=True)
class Played:
    """What came of a workload."""

    answers: list[Answered]
    peak_bytes: int
    samples: int
    loads: int


def play(folder: Path, state_dir: Path, mode: str, asked: list[Asked]) -> Played:
    """The workload on a server in a process of its own, its memory sampled ten times a second."""
    state_dir.mkdir()
    requests, answers = state_dir / "requests.json", state_dir / "answers.json"
    requests.write_bytes(msgspec.json.encode(asked))
    command = [sys.executable, str(Path(__file__).with_name("play.py")), str(folder)]
    command += [str(state_dir), str(MEMORY_BYTES), mode, str(requests), str(answers)]
    process = subprocess.Popen(command)
    try:
        with Sampler(process.pid) as sampler:
            assert process.wait(200) == 0
    finally:
        process.kill()
        process.wait()
    with (state_dir / "decisions.jsonl").open("rb") as lines:
        kinds = [action["kind"] for entry in read_lines(lines) for action in entry["actions"]]
    got = msgspec.json.decode(answers.read_bytes(), type=list[Answered])
    return Played(got, sampler.peak_bytes, len(sampler.samples), kinds.count("Load"))


def alone(folder: Path, mode: str, asked: list[Asked]) -> list[Answered]:
    """Every request by itself on a freshly loaded model."""

    async def main() -> list[Answered]:
        flags = ["--exact"] if mode == "exact" else []
        specs = {name: spec_of(folder / f"{name}.gguf", name) for name, *_ in FOUR}
        answers = []
        async with running_engine(*flags) as engine:
            listener = Listener(engine)
            for number, one in enumerate(asked):
                walk = Walk(engine, specs[one.model], id=one.model)
                cells = 1 << (len(one.prompt) + one.max_tokens - 1).bit_length()
                await walk.serve(1, max(256, cells))
                spec = GenerationSpec(
                    str(number),
                    one.prompt,
                    one.max_tokens,
                    one.sampling,
                    ignore_eos=True,
                    trace_logits=True,
                )
                await engine.submit(walk.id, spec)
                (got,) = await listener.finish([spec.id])
                await walk.deactivate()
                await walk.unload()
                answers.append(
                    Answered(got.tokens, got.digests, [one.sample for one in got.traces])
                )
        return answers

    return asyncio.run(main())


def check_played(played: Played, asked: list[Asked]) -> None:
    assert [one.error for one in played.answers if one.error] == []
    assert [len(one.tokens) for one in played.answers] == [one.max_tokens for one in asked]
    assert played.loads > 4, "there was room for all"
    assert played.samples > 20
    assert played.peak_bytes <= MEMORY_BYTES, f"{played.peak_bytes / MIB:.0f} MiB"


@pytest.mark.timeout(280)
def test_exact_company_changes_no_bit(four_models: Path, tmp_path: Path) -> None:
    asked = workload(seed=1)
    played = play(four_models, tmp_path / "state", "exact", asked)
    check_played(played, asked)
    for number, (got, wanted) in enumerate(
        zip(played.answers, alone(four_models, "exact", asked), strict=True)
    ):
        story = f"request {number} of {asked[number].model}, {len(asked[number].prompt)} tokens"
        assert got.digests == wanted.digests, story
        assert got.tokens == wanted.tokens, story


@pytest.mark.timeout(280)
def test_fast_company_fails_nothing_and_its_difference_is_stated(
    four_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = workload(seed=2)
    played = play(four_models, tmp_path / "state", "fast", asked)
    check_played(played, asked)
    references = alone(four_models, "fast", asked[:COMPARED])
    pairs = list(zip(played.answers, references, strict=False))
    worst = max(difference(got, wanted) for got, wanted in pairs)
    other = sum(got.tokens != wanted.tokens for got, wanted in pairs)
    with capsys.disabled():
        sys.stdout.write(
            f"\n  default mode, in company and alone ({COMPARED} requests): logits differ by at "
            f"most {worst:.3g}; {other} answers have other tokens; {played.loads} loads; "
            f"peak {played.peak_bytes / MIB:.0f} of {MEMORY_BYTES / MIB:.0f} MiB\n"
        )
    assert math.isfinite(worst)


def difference(got: Answered, wanted: Answered) -> float:
    """Of the logits, as long as both had the same context."""
    same = sum(
        1
        for _ in itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(got.tokens, wanted.tokens, strict=True)
        )
    )
    rows = zip(got.samples[: same + 1], wanted.samples[: same + 1], strict=True)
    return max(abs(a - b) for mine, theirs in rows for a, b in zip(mine, theirs, strict=True))
