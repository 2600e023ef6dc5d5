"""Runs and decision logs in, one page out."""

import math
import random
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.domain.decisions import Cause
from repertory.domain.errors import RepertoryError
from repertory.domain.events import Measured, TransitionDone, TransitionFailed, WorkerLost
from repertory.domain.workloads import Ending, Origin
from repertory.reports.page.charts import Axis, Shown, area, clock, curve, plot, stairs
from repertory.reports.page.groups import estimate, group_runs
from repertory.reports.page.lanes import Lane, Level, Span, State
from repertory.reports.page.logs import LogDigest, digest_log
from repertory.reports.page.markup import Markup, el
from repertory.reports.page.page import notices, page
from repertory.reports.page.runs import RunDigest, digest_run
from repertory.traces.runs import RunFileError, RunReader, read_run
from repertory.traces.summary import Slo, parse_slo, summarise
from tests.reports.paging import (
    MIB,
    Reader,
    S,
    a_small_log,
    a_small_run,
    arrived,
    header,
    load,
    record,
    verdict,
    worker_up,
    write_log,
    write_run,
)

SLO = parse_slo("ttft_p99<2s,tpot_p99<200ms")


def told(path: Path, *logs: LogDigest, slo: Slo = SLO) -> RunDigest:
    return digest_run(path, slo, logs)


def log_of(path: Path) -> LogDigest:
    return digest_log([path], path)


def text_of(runs: list[RunDigest], logs: list[LogDigest] | None = None) -> str:
    return Reader(page(runs, logs or [], SLO)).text


# What is read of a run


def test_a_digest_says_what_the_summary_of_its_records_says(tmp_path: Path) -> None:
    luck = random.Random(3)
    records = [record(at, at / 3, luck.expovariate(1.0)) for at in range(500)]
    records += [record(at, at / 3, None, model="b") for at in range(500, 520)]
    digest = told(write_run(tmp_path / "run.jsonl", header(), records))
    horizon_s = max(one.at_s for one in records)
    assert digest.summary == summarise(records, SLO, horizon_s)
    assert digest.offered_per_s == pytest.approx(520 / horizon_s)


def test_the_horizon_begins_after_the_warm_up(tmp_path: Path) -> None:
    records = [record(0, 5.0, is_warmup=True), record(1, 10.0), record(2, 14.0)]
    digest = told(write_run(tmp_path / "run.jsonl", header(), records))
    assert digest.summary.horizon_s == 4.0
    assert digest.summary.warmups == 1
    assert digest.offered_per_s == 0.5


def test_the_queue_is_as_long_as_requests_waited(tmp_path: Path) -> None:
    """Its integral is the sum of all waits, and so is that of the demand their number."""
    luck = random.Random(5)
    records = [record(at, luck.uniform(0, 90), luck.uniform(0, 20)) for at in range(200)]
    records.sort(key=lambda one: one.at_s)
    digest = told(write_run(tmp_path / "run.jsonl", header(), records))
    (course,) = digest.courses
    waits_s = sum(one.ttft_s or 0.0 for one in records)
    assert sum(course.waiting) * digest.slot_s == pytest.approx(waits_s)
    assert sum(course.demand_per_s) * digest.slot_s == pytest.approx(200)


def test_who_was_never_answered_waits_to_the_end(tmp_path: Path) -> None:
    records = [record(0, 0.0, None), record(1, 9.0, 1.0)]
    digest = told(write_run(tmp_path / "run.jsonl", header(), records))
    (course,) = digest.courses
    assert course.waiting[-1] == pytest.approx(1.0)
    assert digest.ttft.values[-1] == math.inf


def test_failures_that_differ_in_numbers_only_count_as_one(tmp_path: Path) -> None:
    records = [
        record(
            at,
            float(at),
            None,
            ending=Ending.REFUSED,
            status=400,
            message=f"{9000 + at} tokens exceed the context of 8,192",
        )
        for at in range(7)
    ]
    records.append(record(8, 8.0, None, ending=Ending.FAILED, message="reset by <peer>"))
    digest = told(write_run(tmp_path / "run.jsonl", header(), records))
    assert [count for _, count, _ in digest.failures] == [7, 1]
    text = text_of([digest])
    assert "9000 tokens exceed the context of 8,192 refused 400 ours, simulated 7" in text
    assert "reset by <peer> failed" in text


def test_a_run_reader_reads_what_read_run_reads(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.jsonl", header(), a_small_run())
    with RunReader(path) as reader:
        assert tuple(reader) == read_run(path).records
        assert reader.header == header()
        assert reader.read_bytes == path.stat().st_size
        assert not reader.is_cut
    path.write_bytes(path.read_bytes()[:-30])
    with RunReader(path) as reader:
        assert tuple(reader) == read_run(path).records
        assert reader.is_cut


# Repeats and intervals


def test_runs_that_differ_in_seed_are_repeats_and_other_loads_are_not(tmp_path: Path) -> None:
    digests = []
    for seed, gap_s in ((1, 1.0), (2, 1.0), (1, 0.25), (2, 0.26)):
        records = [record(at, at * gap_s) for at in range(100)]
        path = tmp_path / f"{len(digests)}.jsonl"
        digests.append(told(write_run(path, header(seed=seed), records)))
    groups = group_runs(digests)
    assert [len(one.runs) for one in groups] == [2, 2]
    assert [round(one.offered_per_s, 1) for one in groups] == [1.0, 4.0]
    assert "All runs of a system have one load" not in text_of(digests)


def test_the_interval_is_students(tmp_path: Path) -> None:
    """Of 1, 2, 3: the deviation is 1, t with two degrees of freedom 4.303."""
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert estimate([1.0]).half is None
    assert estimate([1.0, None]).mean is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60))
def test_an_interval_is_about_the_mean_and_never_negative(values: list[float]) -> None:
    found = estimate(values)
    assert found.mean is not None
    assert found.half is not None
    assert found.half >= 0
    assert min(values) - 1e-6 <= found.mean <= max(values) + 1e-6


def test_measured_and_simulated_never_share_a_table(tmp_path: Path) -> None:
    one = told(write_run(tmp_path / "1", header(), a_small_run()))
    other = told(write_run(tmp_path / "2", header(origin=Origin.MEASURED), a_small_run()))
    html = page([one, other], [], SLO)
    for table in re.findall(r"<h3>[^<]*<span[^>]*>(\w+)</span></h3><div class=\"scroll\"", html):
        assert table in ("measured", "simulated")
    assert html.count('class="origin measured"') >= 3
    assert html.count('class="origin simulated"') >= 3
    assert [len(group.runs) for group in group_runs([one, other])] == [1, 1]


# The decision log


def test_a_model_is_followed_up_and_down_the_ladder(tmp_path: Path) -> None:
    log = log_of(write_log(tmp_path / "log", a_small_log()))
    (device,) = log.devices
    ((model, spans),) = device.lanes
    assert model == "a"
    assert [(one.begin_s, one.end_s, one.state) for one in spans] == [
        (1.0, 3.0, State.MOVING),
        (3.0, 19.0, State.SERVING),
        (19.0, 20.0, State.MOVING),
        (20.0, 21.0, State.HOST),
    ]


def test_memory_is_what_was_measured_after_each_move(tmp_path: Path) -> None:
    (device,) = log_of(write_log(tmp_path / "log", a_small_log())).devices
    assert [(at_s, held // MIB) for at_s, held in device.held] == [
        (0.0, 0),
        (2.5, 40),
        (3.0, 60),
        (19.5, 40),
        (20.0, 0),
    ]
    assert device.peak_bytes == 60 * MIB
    assert device.budget_bytes == 100 * MIB


def test_a_part_that_a_move_does_not_change_stays(tmp_path: Path) -> None:
    """Some say 0 of weights after an activation, which brings KV."""
    steps = a_small_log()[:3]
    opened = Measured(S, weights_bytes=0, kv_bytes=20 * MIB)
    steps += [(TransitionDone(3 * S, 2, "a/1", opened), (), ())]
    (device,) = log_of(write_log(tmp_path / "log", steps)).devices
    assert device.held[-1] == (3.0, 60 * MIB)


def test_reasons_add_up_what_was_predicted_and_what_it_took(tmp_path: Path) -> None:
    log = log_of(write_log(tmp_path / "log", a_small_log()))
    found = {(one.rule, one.cause): one for one in log.reasons}
    evict, brought = found["evict", "room"], found["load", "demand"]
    assert (evict.count, evict.moves) == (2, 2)
    assert (evict.predicted_s, evict.measured_s) == pytest.approx((0.8, 1.0))
    assert (brought.count, brought.measured_s) == (1, 1.5)
    assert "evict room 2 800.0 ms 1.00 s" in text_of([], [log])


def test_a_move_that_failed_leaves_the_replica_where_it_stood(tmp_path: Path) -> None:
    steps = a_small_log()[:4]
    down = verdict("evict", 3, Cause.ROOM)
    steps += [
        (arrived(1, 10.0), a_small_log()[5][1], (down,)),
        (TransitionFailed(11 * S, 3, "a/1", "no <b>luck</b>"), (), ()),
        (arrived(2, 20.0), (), ()),
    ]
    log = log_of(write_log(tmp_path / "log", steps))
    assert log.devices[0].lanes[0][1][-1] == Span(11.0, 20.0, State.SERVING)
    assert log.devices[0].held[-1][1] == 60 * MIB
    assert "a move failed: no <b>luck</b>" in text_of([], [log])


def test_a_lost_worker_holds_nothing(tmp_path: Path) -> None:
    steps = a_small_log()[:4]
    steps += [
        (WorkerLost(5 * S, "local", "killed"), (), ()),
        (worker_up(6.0), (load(3, "a/2"),), (verdict("load", 3, Cause.DEMAND),)),
        (arrived(2, 9.0), (), ()),
    ]
    (device,) = log_of(write_log(tmp_path / "log", steps)).devices
    assert device.held[-1] == (6.0, 0)
    assert [one.state for one in device.lanes[0][1]] == [State.MOVING, State.SERVING, State.MOVING]
    assert device.lanes[0][1][1].end_s == 5.0


def test_a_log_is_put_on_the_clock_of_its_run(tmp_path: Path) -> None:
    log = log_of(write_log(tmp_path / "log", a_small_log()))
    digest = told(write_run(tmp_path / "run", header(), a_small_run()), log)
    ((_, match),) = digest.matches
    assert (match.known, match.agreeing, match.offset_s) == (2, 2, 1.0)
    assert not notices([digest], [log])
    assert "a: serving for 16.00 s, from 2.00 s" in text_of([digest], [log])


def test_the_interval_of_a_share_is_no_more_than_all(tmp_path: Path) -> None:
    """Two runs of which one was all at once and the other half: by Student's t ± 318 %."""
    quick = [record(at, float(at), 0.05) for at in range(8)]
    mixed = [record(at, float(at), 0.05 if at % 2 else 0.5) for at in range(8)]
    runs = [
        told(write_run(tmp_path / f"run{seed}", header(seed=seed), records))
        for seed, records in enumerate((quick, mixed))
    ]
    text = text_of(runs)
    assert "75.0 % ± 100 %" in text
    assert "± 31" not in text


def test_a_run_whose_server_calls_the_models_otherwise_is_known_again(tmp_path: Path) -> None:
    log = log_of(write_log(tmp_path / "log", a_small_log()))
    asked = [replace(one, model="chat") for one in a_small_run()]
    digest = told(write_run(tmp_path / "run", header(models={"chat": "a"}), asked), log)
    ((_, match),) = digest.matches
    assert match.agreeing == 2
    other = told(write_run(tmp_path / "other", header(), asked), log)
    assert other.matches[0][1].known == 0


# What is wrong with what was given


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no run file"),
        (b"hello\n", "no run file"),
        (
            b'{"format":"other 1","run":{"system":"a","origin":"measured","workload":"w"}}\n',
            "other",
        ),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(RunFileError, match=words):
        told(path)


@pytest.mark.parametrize("content", [b"", b"hello\n", b'{"a": 1}\n', b"[1, 2]\n", b'"x"\n'])
def test_what_is_no_log_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(RepertoryError, match="decision log"):
        log_of(path)


def test_an_empty_run_is_left_out_and_said(tmp_path: Path) -> None:
    empty = told(write_run(tmp_path / "empty", header(), []))
    whole = told(write_run(tmp_path / "whole", header("other"), a_small_run()))
    warm = told(write_run(tmp_path / "warm", header(), [record(0, 1.0, is_warmup=True)]))
    said = notices([empty, whole, warm], [])
    assert said[0] == "empty has no request that counts. It is left out."
    assert said[1] == "warm has no request that counts; it has 1 of warm-up. It is left out."
    assert "Mind empty has no request that counts" in text_of([empty, whole, warm])
    assert "No request" not in text_of([whole])
    text_of([empty])


def test_one_simulated_run_that_is_there_twice_says_so(tmp_path: Path) -> None:
    """Measured runs of one seed are repeats, and never the same to the last figure."""
    (tmp_path / "again").mkdir()
    head = header(origin=Origin.SIMULATED, seed=3)
    paths = (tmp_path / "run", tmp_path / "again" / "run")
    one, twin = (told(write_run(path, head, a_small_run())) for path in paths)
    (said,) = notices([one, twin], [])
    assert "and again/run are one simulated run: it counts twice" in said
    more = [*a_small_run(), record(9, 2.0)]
    other = told(write_run(tmp_path / "other", head, more))
    assert notices([one, other], []) == []


def test_a_run_that_was_cut_off_says_so(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", header(note="interrupted after 2 requests"), a_small_run())
    path.write_bytes(path.read_bytes()[:-40])
    text = text_of([told(path)])
    assert "run was cut off in the middle of a line" in text
    assert "run is only a part: interrupted after 2 requests." in text
    assert "1 requests in 1 run" in text


def test_mixed_workloads_are_said_and_kept_apart(tmp_path: Path) -> None:
    one = told(write_run(tmp_path / "1", header(workload="w1"), a_small_run()))
    two = told(write_run(tmp_path / "2", header(workload="w2"), a_small_run()))
    assert "The runs are of 2 workloads (w1, w2)" in text_of([one, two])
    assert len(group_runs([one, two])) == 2


def test_a_log_of_another_run_is_said_so(tmp_path: Path) -> None:
    log = log_of(write_log(tmp_path / "log", a_small_log()))
    others = [record(0, 0.0, model="b"), record(1, 18.0, model="b")]
    digest = told(write_run(tmp_path / "run", header(), others), log)
    text = text_of([digest], [log])
    assert "log is the log of another run: of its first 2 requests, 0 are in a run" in text
    assert "log, of a run that is not on this page" in text


def test_a_log_of_the_same_requests_under_another_policy_is_another_runs(tmp_path: Path) -> None:
    """Its requests are the same; what became of them is not."""
    log = log_of(write_log(tmp_path / "log", a_small_log()))
    slower = [record(0, 0.0, 9.5), record(1, 18.0, 8.0)]
    other = told(write_run(tmp_path / "other", header("slower"), slower), log)
    assert "is the log of another run" in text_of([other], [log])
    ours = told(write_run(tmp_path / "ours", header("ours"), a_small_run()), log)
    text = text_of([other, ours], [log])
    assert "is the log of another run" not in text
    assert re.search(r"What was where .* ours simulated", text)


def test_missing_decisions_are_said_and_marked(tmp_path: Path) -> None:
    log = log_of(write_log(tmp_path / "log", a_small_log(), missing=(2, 5)))
    assert (log.missing, log.gaps) == (2, ((0.0, 1), (3.0, 1)))
    html = page([], [log], SLO)
    assert "lacks 2 decisions" in html
    assert log.unknown_moves == 1
    assert log.decisions == 7


def test_a_log_that_breaks_off_says_where(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log", a_small_log())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]) + b'{"step": 6, "ev\n' + b"".join(lines[6:]))
    assert "log cannot be read from line 7 on." in notices([], [log_of(path)])


def test_two_runs_of_a_server_in_one_file_are_not_mixed(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log", a_small_log())
    path.write_bytes(path.read_bytes() * 2)
    log = log_of(path)
    assert log.decisions == 9
    assert "another run of the server begins in log; it is not shown." in notices([], [log])


# The page itself


def test_a_page_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    log = log_of(write_log(tmp_path / "log", a_small_log()))
    digest = told(write_run(tmp_path / "run", header(), a_small_run()), log)
    html = page([digest], [log], SLO)
    found = Reader(html)
    assert html.startswith("<!doctype html>")
    assert not found.names & {"script", "link", "img", "iframe", "object", "embed"}
    assert all(link.startswith("#") for link in found.links)
    assert "url(" not in html.replace("url(#hatch)", "")
    assert "@import" not in html
    assert "default-src 'none'" in html.replace("&#x27;", "'")
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in found.links} <= set(ids)


def test_what_people_wrote_is_text_and_no_markup(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    records = [record(0, 1.0, None, ending=Ending.FAILED, message=evil, model=evil)]
    head = header(evil, workload=evil, fleet=evil, note=evil)
    html = page([told(write_run(tmp_path / "run", head, records))], [], SLO)
    assert "<script" not in html
    assert evil in Reader(html).text


@given(st.text(), st.text())
def test_text_and_attributes_come_back_as_they_were(inside: str, attribute: str) -> None:
    found: list[str] = []

    class Once(Reader):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            super().handle_starttag(tag, attrs)
            found.extend(value or "" for _, value in attrs)

    words = "".join(each for each in inside if each.isprintable())
    name = "".join(each for each in attribute if each.isprintable())
    assert Once(el("p", words, title=name)).text == " ".join(words.split())
    assert found == [name]


@given(st.floats(1e-6, 1e6), st.floats(1.1, 1e6), st.booleans())
def test_ticks_are_few_and_inside(low: float, ratio: float, is_log: bool) -> None:
    axis = Axis(low, low * ratio, is_log)
    for ticks in (axis.ticks(), axis.ticks(2)) if is_log else (axis.ticks(), axis.moments()):
        assert len(ticks) <= 7
        for tick in ticks:
            assert low * (1 - 1e-6) <= tick <= low * ratio * (1 + 1e-6)
            assert 0 <= axis.share(tick) <= 1


@given(st.lists(st.tuples(st.floats(-10, 1e4), st.floats(-1, 1e4)), max_size=30))
def test_curves_stay_inside_their_picture(points: list[tuple[float, float]]) -> None:
    x, y = Axis(0.0, 100.0), Axis(0.0, 50.0)
    points.sort()
    for path in (curve(x, y, points, "k"), stairs(x, y, points, "k"), area(x, y, points, "k")):
        for number in re.findall(r"[\d.]+", path.partition('d="')[2].partition('"')[0]):
            assert 0 <= float(number) <= 1000
    assert isinstance(plot(x, y, (), Shown("nothing", [], [])), Markup)


def test_stairs_go_to_their_last_point() -> None:
    """Also where nothing changes any more."""
    x, y = Axis(0.0, 10.0), Axis(0.0, 1.0)
    path = stairs(x, y, [(0.0, 1.0), (2.0, 0.0), (10.0, 0.0)], "k")
    assert 'd="M0 0H200V1000H1000"' in path


def test_moments_read_like_a_clock() -> None:
    assert clock(30, 120) == "30 s"
    assert clock(300, 3600) == "5 min"
    assert clock(7200, 40_000) == "2 h"
    assert clock(86_400 * 3, 86_400 * 7) == "day 3"


@given(st.lists(st.sampled_from(list(State)), min_size=1, max_size=3000), st.integers(0, 9))
def test_a_long_lane_is_bounded_and_loses_no_time(states: list[State], seed: int) -> None:
    luck = random.Random(seed)
    lane, at_s = Lane(), 0.0
    for state in states:
        took_s = luck.expovariate(1.0) * luck.choice((0.01, 1.0, 30.0))
        lane.add(Span(at_s, at_s + took_s, state))
        at_s += took_s
    spans = lane.spans
    assert len(spans) <= 1200
    assert (spans[0].begin_s, spans[-1].end_s) == (0.0, at_s)
    for one, other in pairwise(spans):
        assert one.end_s == other.begin_s


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=4000))
def test_a_long_level_is_bounded_and_keeps_its_peak(values: list[int]) -> None:
    level = Level()
    for at_s, value in enumerate(values):
        level.set(float(at_s), value)
    assert len(level.points) <= 1200
    assert max(value for _, value in level.points) == level.peak == max(values)
    assert level.points[-1] == (len(values) - 1.0, values[-1])
