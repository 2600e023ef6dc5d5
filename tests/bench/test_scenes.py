"""How the scenes of a benchmark are played."""

import json
from pathlib import Path

from bench.checks import Check, at_most
from bench.serve.run import Run, play


def _holds(run: Run) -> list[Check]:
    run.keep("one", 1)
    return [at_most("one", "s", 1.0, 2.0)]


def _breaks(run: Run) -> list[Check]:
    raise RuntimeError("the server is gone")


def test_a_scene_that_breaks_off_takes_no_other_with_it(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "costs.json"
    run = Run(tmp_path, tmp_path)
    checks = play(run, {"first": _holds, "second": _breaks, "third": _holds}, out)
    assert [(one.name, one.holds) for one in checks] == [
        ("one", True),
        ("second: broke off", False),
        ("one", True),
    ]
    assert sorted(run.raw["seconds"]) == ["first", "second", "third"]


def test_what_is_read_is_on_the_disk_when_a_scene_ends(tmp_path: Path) -> None:
    out = tmp_path / "costs.json"

    def looks(run: Run) -> list[Check]:
        found = json.loads(out.read_text())
        assert [one["name"] for one in found["checks"]] == ["one"]
        assert found["raw"]["one"] == 1
        return [at_most("looked", "", 0, 0)]

    checks = play(Run(tmp_path, tmp_path), {"first": _holds, "second": looks}, out)
    assert [one.name for one in checks] == ["one", "looked"]
