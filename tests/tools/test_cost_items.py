"""What the cost items of the GPU check say: which there are, laws, tables, answers, pictures."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from gpucheck.costs import plot
from gpucheck.costs.found import Costs, Cycle, Resume
from gpucheck.costs.names import kind_of
from gpucheck.costs.summary import costs_table, point_of, summarise
from gpucheck.costs.wanted import KINDS, estimate_s, layers_to_try, possible, share_there, wanted
from gpucheck.maker import stored_bytes, tensors
from gpucheck.result import Item, Report, failures_of, table, write
from gpucheck.shapes import SHAPES
from known_laws import (
    DECODE,
    PREFILL,
    cycle,
    full_report,
    interruption,
    report,
    steps,
)

ROOT = Path(__file__).parents[2]


def test_the_paper_s_shapes_are_there() -> None:
    gigabytes = {
        name: sum(stored_bytes(one, shape) for one in tensors(shape)) / 1e9
        for name, shape in SHAPES.items()
    }
    assert gigabytes["8b-q4_0"] == pytest.approx(4.5, abs=0.1)
    assert gigabytes["14b-q4_0"] == pytest.approx(8.3, abs=0.1)
    assert gigabytes["32b-q4_0"] == pytest.approx(18.4, abs=0.1)
    assert gigabytes["8b-f16"] == pytest.approx(16.1, abs=0.1)
    # Yildiz 2026, Table III: 0.1875 MiB for a token of Qwen2.5-14B.
    assert SHAPES["14b-q4_0"].kv_bytes_per_token == 196_608
    assert SHAPES["8b-q4_0"].kv_bytes_per_token == 131_072


@pytest.mark.parametrize("name", ["8b-q4_0", "14b-q4_0", "32b-q4_0"])
def test_shares_go_from_nothing_to_all_and_are_dense_above_nine_tenths(name: str) -> None:
    shape = SHAPES[name]
    tried = layers_to_try(shape)
    assert tried[:2] == [shape.layers, 0]  # all first: it leaves the KV for the others
    assert len(set(tried)) == len(tried)
    shares = sorted(share_there(shape, layers) for layers in tried)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert max(after - before for before, after in pairwise(shares)) < 0.25
    dense = [share for share in shares if share > 0.88]
    assert len(dense) >= 4
    assert max(after - before for before, after in pairwise(dense)) < 0.035


def test_a_share_is_of_the_bytes_that_a_step_computes() -> None:
    shape = SHAPES["8b-q4_0"]
    sizes = {one.name: stored_bytes(one, shape) for one in tensors(shape)}
    moved = ("blk.31.", "output")  # the first layer that goes takes the head along
    there = sum(size for name, size in sizes.items() if name.startswith(moved))
    computed = sum(sizes.values()) - sizes["token_embd.weight"]
    assert share_there(shape, 1) == pytest.approx(there / computed, rel=1e-4)


def test_each_model_is_interrupted_for_the_first_and_the_first_for_each() -> None:
    found = wanted(["8b-q4_0", "14b-q4_0", "32b-q4_0"], ["preempt"])
    assert found == [
        ("8b-q4_0", "preempt-for-8b-q4_0"),
        ("8b-q4_0", "preempt-for-14b-q4_0"),
        ("8b-q4_0", "preempt-for-32b-q4_0"),
        ("14b-q4_0", "preempt-for-8b-q4_0"),
        ("32b-q4_0", "preempt-for-8b-q4_0"),
    ]
    assert all(len(SHAPES[model].points) == 9 for model in SHAPES)


def test_items_are_of_the_kinds_that_can_be_named_and_all_are_possible() -> None:
    every = wanted(list(SHAPES))
    assert {kind_of(item) for _, item in every} == set(KINDS)
    assert set(every) <= set(possible())
    assert len(set(every)) == len(every)
    for kind in KINDS:
        assert {kind_of(item) for _, item in wanted(list(SHAPES), [kind])} == {kind}


def test_every_item_is_guessed_to_fit_into_nine_minutes() -> None:
    guesses = {one: estimate_s(*one) for one in possible()}
    assert all(0.0 < seconds < 9 * 60 for seconds in guesses.values())
    slow, fast = guesses["32b-q4_0", "offload-5"], guesses["32b-q4_0", "offload-64"]
    assert slow > fast


def test_the_law_is_found_again_in_the_steps_that_obey_it() -> None:
    found = {curve.kind: curve for curve in summarise(steps("8b-q4_0")).curves}
    decode, prefill = found["decode"], found["prefill"]
    assert decode.device_fixed_s == pytest.approx(DECODE.device.fixed_s, rel=0.02)
    assert decode.host_per_token_s == pytest.approx(DECODE.host.per_unit_s, rel=0.02)
    assert decode.crossing_s == pytest.approx(DECODE.crossing_s, rel=0.05)
    assert prefill.host_fixed_s == pytest.approx(PREFILL.host.fixed_s, rel=0.02)
    assert decode.residual < 0.001
    assert decode.spread == pytest.approx(0.015)
    shape = SHAPES["8b-q4_0"]
    assert decode.points == len(layers_to_try(shape)) * len(shape.lengths)


def test_prompts_with_nothing_on_the_device_and_short_ones_are_no_part_of_their_law() -> None:
    """There the cores compute alone; and a chunk that is not full costs much the same."""
    shape = SHAPES["8b-q4_0"]
    items = steps("8b-q4_0")
    (curve,) = [one for one in summarise(items).curves if one.kind == "prefill"]
    assert curve.points == (len(layers_to_try(shape)) - 1) * len([500, 1000, 5000])
    only_two = [item for item in items if item.name in ("offload-0", "offload-32")]
    assert [one.kind for one in summarise(only_two).curves] == ["decode"]
    (rehearsed,) = [one for one in summarise(steps("tiny")).curves if one.kind == "prefill"]
    assert rehearsed.points == (len(layers_to_try(SHAPES["tiny"])) - 1) * len([20, 150])


def test_a_prompt_is_a_point_per_token_at_its_length() -> None:
    (longest,) = [
        one for one in steps("8b-q4_0")[0].costs.steps if not one.decode and one.tokens == 5000
    ]
    point = point_of(longest)
    assert (point.share, point.context_tokens) == (1.0, 5000)
    assert point.seconds == pytest.approx(PREFILL.seconds(1.0, 5000))


def test_an_interruption_counts_all_but_the_claimant_s_own_way() -> None:
    one = cycle("14b-q4_0", 1000, load_s=1.0)
    kv_s = 131_072_000 / 1e10 * (1 + 1 / 1.5)
    assert one.kv_s == pytest.approx(kv_s)
    assert one.swap_s == pytest.approx(0.01 + 0.05 + 1.0 + 0.04)
    assert one.overhead_s == pytest.approx(kv_s + 1.1 + 0.002)  # of the first token, beyond a step


def test_a_fixed_cost_is_told_to_be_one() -> None:
    told = summarise(
        [interruption("8b-q4_0", "8b-q4_0"), interruption("8b-q4_0", "14b-q4_0", load_s=1.25)]
    )
    leaving, staying = told.interruptions[:2]
    assert (leaving.stays, staying.stays) == (False, True)
    assert leaving.points == 9
    assert leaving.swap_share > 0.95
    assert leaving.swap_share + leaving.kv_share <= 1.0
    assert staying.overhead_s == pytest.approx(0.002)
    assert leaving.steps_per_load == pytest.approx(1.24 / 0.006)
    assert leaving.added_share == pytest.approx(leaving.overhead_s / (7000 * 0.006))
    assert "does not depend on the point" in told.answers[0]
    assert told.answers[-1].startswith("8b-q4_0: the cost does not depend on the other model")


def test_a_cost_that_grows_with_the_point_or_with_the_other_is_told() -> None:
    told = summarise(
        [
            interruption("8b-q4_0", "8b-q4_0", by_token_s=1e-4),
            interruption("8b-q4_0", "14b-q4_0", load_s=3.0),
        ]
    )
    assert "8b-q4_0 for 8b-q4_0: the cost depends on the point" in told.answers[0]
    assert told.answers[-1].startswith("8b-q4_0: the cost depends on the other model")


def test_one_outlier_among_nine_points_does_not_tilt_the_answer() -> None:
    item = interruption("8b-q4_0", "8b-q4_0")
    cycles = list(item.costs.cycles)
    cycles[8] = msgspec.structs.replace(cycles[8], load_s=2.4)
    told = summarise([msgspec.structs.replace(item, costs=Costs(cycles=cycles))])
    assert "does not depend on the point" in told.answers[0]


def test_scattered_readings_are_not_taken_for_an_answer() -> None:
    item = interruption("8b-q4_0", "8b-q4_0")
    loads = (1.6, 1.0, 2.0, 0.9, 1.3, 1.9, 1.0, 2.1, 1.5)
    cycles = [
        msgspec.structs.replace(one, load_s=load_s)
        for one, load_s in zip(item.costs.cycles[:9], loads, strict=True)
    ]
    (answer,) = summarise([msgspec.structs.replace(item, costs=Costs(cycles=cycles))]).answers
    assert "scatters too much" in answer


def broken(**changes: float) -> Item:
    whole = msgspec.structs.replace(cycle("tiny", 100, load_s=1.0), **changes)
    return Item("tiny", "preempt-for-tiny", costs=Costs(cycles=[whole]))


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (broken(), None),
        (broken(kept_bytes=64 << 20), "67.1 MB did not come back at 100 tokens"),
        (broken(logits_apart_share=0.2), "went on otherwise at 100 tokens: logits 20.0% apart"),
        (
            Item("tiny", "resume", costs=Costs(resumes=[Resume("kv", 12, 3, 0.1, 1.0, 0.1)])),
            "by kv, 3 of 12 tokens are those of the undisturbed run",
        ),
        (Item("tiny", "resume", costs=Costs(resumes=[Resume("replay", 12, 3, 0.1, 1, 0.1)])), None),
        (Item("tiny", "link", failure="no such device"), "no such device"),
    ],
)
def test_what_did_not_come_back_or_go_on_is_a_failure(item: Item, told: str | None) -> None:
    """A replay may choose other tokens: it rounds otherwise."""
    assert failures_of(item) == ([] if told is None else [f"tiny {item.name}: {told}"])


def test_the_tables_name_every_model_pair_and_note() -> None:
    costs = full_report().costs
    text = costs_table(costs)
    for row in costs.interruptions:
        assert any(row.victim in line and row.claimant in line for line in text.splitlines())
    assert "5000     655.4" in text  # Table III: KV at the last point, in 10**6 bytes
    assert all(answer in text for answer in costs.answers)
    noted = Item("tiny", "link", costs=Costs(notes=["pinned memory is not offered"]))
    assert "pinned memory is not offered" in table([noted])
    assert costs_table(summarise([])) == ""


def test_a_report_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    written = full_report()
    write(tmp_path / "report.json", written)
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report) == written


def test_lines_are_relative_to_all_layers_on_the_device() -> None:
    first, second = plot.curve_lines(full_report(), "decode")
    assert (first.model, second.model) == ("8b-q4_0", "14b-q4_0")
    assert first.length == 500  # the length in the middle
    assert first.speeds[-1] == 1.0
    assert list(first.shares) == sorted(first.shares)
    assert first.speeds[0] == pytest.approx(DECODE.normalised(0.0, 500))
    assert first.least[0] < first.speeds[0] < first.most[0]
    assert first.best_per_s == pytest.approx(1.0 / DECODE.seconds(1.0, 500))
    assert second.speeds[0] == pytest.approx(first.speeds[0])  # half as fast, the same curve


def test_a_curve_without_its_end_is_not_drawn() -> None:
    items = [item for item in steps("8b-q4_0") if item.name != "offload-32"]
    assert plot.curve_lines(report(items), "decode") == []


def test_the_parts_of_a_bar_are_the_timers_of_a_cycle() -> None:
    stacks = plot.preemption_stacks(full_report())
    assert [stack.name.splitlines()[0] for stack in stacks] == ["8b-q4_0", "8b-q4_0", "14b-q4_0"]
    drawn = sum(stacks[0].parts.values())
    cycles = [one for one in full_report().items[-3].costs.cycles if not one.stays]
    assert drawn == pytest.approx(sum(timers(one) for one in cycles) / len(cycles))


def timers(one: Cycle) -> float:
    return one.kv_s + one.swap_s + one.first_token_s


def test_links_are_in_gigabytes_per_second() -> None:
    speeds = {stack.name: stack.parts["GB/s"] for stack in plot.link_stacks(full_report())}
    assert speeds["device in\nflat, pinned"] == pytest.approx(50.0)
    assert "disk read" in speeds


def draw(*arguments: str, path: str = "") -> "subprocess.CompletedProcess[str]":
    inherited = dict(os.environ)  # noqa: TID251 - PATH, as the user has it
    here = os.pathsep.join([path, str(ROOT / "tools"), str(ROOT / "src")]).lstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-m", "gpucheck", "plot", *arguments],
        env={**inherited, "PYTHONPATH": here},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_report_is_drawn_anywhere(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source, target = tmp_path / "report.json", tmp_path / "report.png"
    write(source, full_report())
    done = draw(str(source), "-o", str(target))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"drawn: {target}"
    assert target.read_bytes().startswith(b"\x89PNG")


def test_what_is_no_report_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "report.json"
    wrong.write_text("{}")
    for path in (wrong, tmp_path / "none.json"):
        refused = draw(str(path), "-o", str(tmp_path / "report.png"))
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"{path} is no report of this tool")


def test_nothing_is_drawn_of_nothing_or_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.png"
    pytest.importorskip("matplotlib")
    assert plot.draw(report([]), target).startswith("no PNG: nothing")
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    assert plot.draw(full_report(), target).startswith("no PNG, as matplotlib is not here")
    assert not target.exists()
