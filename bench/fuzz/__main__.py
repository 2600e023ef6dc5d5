"""Generated requests and damaged files against a real server; findings end it with 1.

Everything is drawn from `--seed`.  `--only 17`, `--only 1-100` and `--files gguf-5-cut` send again
what was found.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.checks import Check, at_least, at_most, finish
from bench.fuzz.bodies import MODELS
from bench.fuzz.files import Files
from bench.fuzz.findings import Findings
from bench.fuzz.models import MEMORY, make_models
from bench.fuzz.server import Sample, Watched
from bench.fuzz.storm import HUNDRED, Storm
from bench.fuzz.yamls import SLOW_S, Yamls, check_yamls
from bench.serve.systems import repertory

_REQUESTS = 12_000
_FILES = 275
"""Of each kind."""
_MIB = 2**20


def main() -> int:
    options = _options()
    print(f"seed {options.seed}", flush=True)
    findings = Findings(options.seed, options.out.parent / "fuzz")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        raw, checks = asyncio.run(_all(options, findings, Path(place)))
    raw["findings"] = [{"what": one.what, "replay": one.replay} for one in findings.found]
    checks.insert(0, at_most("findings", "", len(findings.found), 0))
    return finish(options.out, checks, raw)


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="bench.fuzz", description=__doc__.partition("\n")[0])
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--requests", type=int, default=_REQUESTS)
    options.add_argument("--damaged", type=int, default=_FILES, help="files of each kind")
    options.add_argument("--out", type=Path, default=Path("build/bench/fuzz.json"))
    options.add_argument("--only", type=_span, help="one request, or from-to, and no files")
    options.add_argument("--files", nargs="+", help="these damaged files, and no requests")
    return options.parse_args()


def _span(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _numbers(options: argparse.Namespace, kind: str) -> list[int]:
    """Damaged files to look at."""
    if options.files:
        return [int(name.split("-")[1]) for name in options.files if name.startswith(kind)]
    return list(range(0 if options.only else options.damaged))


async def _all(
    options: argparse.Namespace, findings: Findings, place: Path
) -> tuple[dict[str, Any], list[Check]]:  # JSON
    began_s = time.monotonic()
    models = place / "models"
    sources = make_models(models)
    requests = options.only or range(0 if options.files else options.requests)
    state = place / "state"
    with repertory(models, state, "--memory", MEMORY) as system:
        server = Watched(system, state / "server.log")
        for model in MODELS:
            await server.chat(model)
        storm = Storm(server, findings)
        await storm.run(options.seed, requests)
        files = Files(server, models, findings)
        await files.run(options.seed, _numbers(options, "gguf"), sources)
    yaml_numbers = _numbers(options, "yaml")
    yamls = check_yamls(options.seed, yaml_numbers, models, findings)
    raw = _raw(options.seed, storm, files, yamls) | {"seconds": time.monotonic() - began_s}
    _show(raw)
    return raw, _checks(storm, files, yamls)


def _raw(seed: int, storm: Storm, files: Files, yamls: Yamls) -> dict[str, Any]:  # JSON
    return {
        "seed": seed,
        "requests": sum(storm.kinds.values()),
        "requests_per_s": sum(storm.kinds.values()) / max(storm.seconds, 1e-9),
        "by_kind": dict(storm.kinds.most_common()),
        "by_status": dict(storm.statuses.most_common()),
        "slowest_request_s": storm.slowest_s,
        "samples": [vars(one) for one in storm.samples],
        "gguf": dict(files.outcomes.most_common()),
        "gguf_slowest_s": files.slowest_s,
        "gguf_s": files.seconds,
        "yaml": dict(yamls.outcomes.most_common()),
        "yaml_slowest_s": yamls.slowest_s,
    }


def _show(raw: dict[str, Any]) -> None:  # JSON
    print(f"\n{raw['requests']} requests, {raw['requests_per_s']:.0f} each second")
    for title in ("by_kind", "by_status", "gguf", "yaml"):
        for word, count in raw[title].items():
            print(f"  {title:10} {word:45} {count:6}")
    print(flush=True)


def _checks(storm: Storm, files: Files, yamls: Yamls) -> list[Check]:
    checks: list[Check] = []
    if storm.hundreds >= 8:
        checks += _growth(storm.samples)
    if sum(storm.good.values()) >= HUNDRED:
        share = storm.good[True] / sum(storm.good.values())
        checks.append(at_least("good requests that are served", "", share, 0.5))
    checks.append(at_most("slowest request", "s", storm.slowest_s, 30))
    if files.outcomes:
        checks.append(at_most("slowest answer of a damaged model file", "s", files.slowest_s, 30))
    if yamls.outcomes:
        checks.append(at_most("slowest reading of a damaged YAML", "s", yamls.slowest_s, SLOW_S))
    return checks


def _growth(samples: Sequence[Sample]) -> list[Check]:
    """The last quarter of the run over the second; the first is warming up."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]

    def grown(*names: str) -> float:
        """Of the first, less the others."""

        def middle(some: Sequence[Sample]) -> float:
            first, *rest = names
            return statistics.median(
                getattr(one, first) - sum(getattr(one, name) for name in rest) for one in some
            )

        return middle(last) - middle(second)

    return [
        at_most("server grows", "MiB", grown("server_bytes") / _MIB, 4),
        at_most(
            "worker grows, without models", "MiB", grown("worker_bytes", "held_bytes") / _MIB, 4
        ),
        at_most("open files more", "", grown("files"), 4),
        at_most("threads more", "", grown("threads"), 2),
    ]


if __name__ == "__main__":
    sys.exit(main())
