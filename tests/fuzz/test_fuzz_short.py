"""`make fuzz` in short: a real server under generated requests and damaged files."""

import asyncio
import math
from pathlib import Path

from bench.fuzz.bodies import MODELS
from bench.fuzz.cases import Manner, case_of
from bench.fuzz.files import Files, put
from bench.fuzz.findings import Findings
from bench.fuzz.models import MEMORY, make_models
from bench.fuzz.server import Watched
from bench.fuzz.storm import Storm
from bench.fuzz.yamls import check_yamls
from bench.serve.systems import repertory

SEED = 1
REQUESTS = [
    number for number in range(200) if case_of(SEED, number).manner is not Manner.STALLS
]  # fmt: skip
DAMAGED = (0, 4, 6, 8, 9, 11, 16, 28, 30, 50)
"""One of most kinds; 6, 28 and 50 lie about their words, and 0, 6 and 50 once killed the worker."""
YAMLS = range(20)


def test_nothing_is_found_in_a_few_requests_and_files(tmp_path: Path) -> None:
    findings = Findings(SEED, tmp_path / "found")
    models, state = tmp_path / "models", tmp_path / "state"
    sources = make_models(models)
    damaged = [put(models, SEED, number, sources) for number in DAMAGED]
    with repertory(models, state, "--memory", MEMORY) as system:
        server = Watched(system, state / "server.log")
        worker = server.worker_pid
        files = Files(server, models, findings)
        storm = Storm(server, findings)

        async def run() -> None:
            for model in MODELS:
                await server.chat(model)
            await files.ask(damaged, DAMAGED[0], DAMAGED[-1])
            await storm.run(SEED, REQUESTS)

        asyncio.run(run())
        server.restarts()
        last_worker = server.worker_pid
    yamls = check_yamls(SEED, YAMLS, models, findings, slow_s=math.inf)
    assert [one.what for one in findings.found] == []
    assert last_worker == worker
    assert sum(files.outcomes.values()) == len(DAMAGED)
    assert files.outcomes["refused (503): quarantined"] >= 2, files.outcomes
    assert sum(storm.good.values()), storm.kinds
    assert storm.good[True] >= sum(storm.good.values()) / 2
    assert sum(yamls.outcomes.values()) == len(YAMLS)
