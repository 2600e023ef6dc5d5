"""Statistics of published traces against what was published of them."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from repertory.domain.workloads import Arrival
from repertory.traces.columns import WorkloadError
from repertory.traces.published import azure_2023_files, read_azure_2023, read_azure_2024
from repertory.traces.published import read_mooncake as mooncake
from repertory.traces.recipes import open_file
from repertory.traces.servegen import holes, read_clients
from tests.traces.folder import DATA, with_data


@with_data
@pytest.mark.parametrize(
    ("service", "rows", "per_s"), [("code", 8_819, 2.6), ("conv", 19_366, 5.5)]
)
def test_azure_2023_has_its_totals(service: str, rows: int, per_s: float) -> None:
    found = list(read_azure_2023(azure_2023_files(DATA)[service]))
    assert len(found) == rows
    assert rows / found[-1].at_s == pytest.approx(per_s, rel=0.03)
    assert all(before.at_s <= after.at_s for before, after in pairwise(found))


@with_data
@pytest.mark.parametrize(
    ("service", "first_row", "second_row"),
    [("code", Arrival(0.0, "m", 4808, 10), 0.052), ("conv", Arrival(0.0, "m", 374, 44), 4.314579)],
)
def test_azure_2023_is_read_to_the_tenth_of_a_microsecond(
    service: str, first_row: Arrival, second_row: float
) -> None:
    found = read_azure_2023(azure_2023_files(DATA)[service], "m")
    assert next(found) == first_row
    assert next(found).at_s == second_row


def _azure(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *rows)) + "\n")
    return path


_ROW = "2023-11-16 18:17:03.9799600,4808,10"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("2023-11-16 18:17:04.0,1", ":3: this is no row of Azure's trace"),
        ("yesterday,1,1", ":3: this is no row of Azure's trace"),
        ("2023-11-16 18:17:04.0,1,0", ":3: output_tokens is 0"),
        ("2023-11-16 18:17:04.0,-1,3", ":3: prompt_tokens is -1"),
        ("2023-11-16 18:17:03.0,1,1", ":3: .* negative|:3: .* is before the row ahead"),
    ],
)
def test_a_row_of_azure_that_is_wrong_is_named(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        list(open_file(_azure(tmp_path / "bad.csv", _ROW, row)))


def test_an_azure_file_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no request in it"):
        list(open_file(_azure(tmp_path / "none.csv")))


@with_data
def test_azure_2024_has_a_day_and_a_week() -> None:
    for service in ("code", "conv"):
        week = read_azure_2024(DATA, service)
        days = week.curve.rates_per_s.reshape(7, -1).mean(axis=1)
        assert len(week.curve.rates_per_s) == 7 * 144
        assert max(days[5:]) < min(days[:5])  # Saturday and Sunday are the quiet ones
        drawn = week.output.draw(np.random.default_rng(0), 20_000)
        assert drawn.min() >= 1
        published = {"code": 8, "conv": 42}[service]
        assert float(np.median(drawn)) == pytest.approx(published, abs=2)


@with_data
def test_mooncakes_prefixes_begin_alike() -> None:
    path = DATA / "mooncake" / "conversation_trace.jsonl.gz"
    found = list(mooncake(path))
    with gzip.open(path) as file:
        rows = [json.loads(line) for line in file]
    assert len(found) == len(rows) == 12_031
    begins: dict[str, list[int]] = {}
    for one, row in zip(found, rows, strict=True):
        assert one.prefix_tokens < one.prompt_tokens
        if one.prefix_id:
            blocks = row["hash_ids"][: -(-one.prefix_tokens // 512)]
            assert begins.setdefault(one.prefix_id, blocks) == blocks


def _mooncake(path: Path, *hashes: list[int]) -> Path:
    rows = [
        {"timestamp": at, "input_length": 512 * len(some), "output_length": 3, "hash_ids": some}
        for at, some in enumerate(hashes)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_prefix_is_the_longest_run_that_another_has_too(tmp_path: Path) -> None:
    path = _mooncake(tmp_path / "m.jsonl", [1, 2, 3], [1, 2, 3, 4], [1, 5], [6])
    found = [(one.prefix_id, one.prefix_tokens) for one in open_file(path)]
    assert found == [("3", 1535), ("3", 1536), ("1", 512), ("", 0)]


def test_a_row_of_mooncake_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = _mooncake(tmp_path / "m.jsonl", [1], [2])
    path.write_text(path.read_text().replace('"timestamp": 1', '"timestamp": "x"'))
    with pytest.raises(WorkloadError, match=r"m\.jsonl:2: this is no row of Mooncake"):
        list(open_file(path))


@with_data
def test_servegens_windows_have_the_published_counts_and_cvs() -> None:
    pytest.importorskip("pyarrow")
    (stream,) = read_clients(DATA, [("language/m-large", 78)], ["a"])
    found = np.array([one.at_s for one in stream.arrivals(3, (2, 2))])
    counts, _ = np.histogram(found, 144, (0, 86_400))
    assert (counts == stream.counts[288:432]).all()
    cvs = []
    for window in range(144):
        gaps = np.diff(found[(found >= window * 600) & (found < window * 600 + 600)])
        cvs.append(gaps.std() / gaps.mean())
    assert float(np.median(cvs)) == pytest.approx(0.912, rel=0.1)  # clients.csv: cv_median


@with_data
@pytest.mark.parametrize("client", [("language/m-large", 1), ("language/m-large", 20)])
def test_a_thinned_stream_bunches_as_if_each_request_had_drawn_a_lot(
    client: tuple[str, int],
) -> None:
    """What falls out of a Gamma stream is never drawn: in distribution that is the same."""
    pytest.importorskip("pyarrow")
    (stream,) = read_clients(DATA, [client], ["a"])
    luck = np.random.default_rng(0)
    whole = np.array([one.at_s for one in stream.arrivals(3, (0, 13))])
    lots = whole[luck.random(len(whole)) < 0.2]
    thin = np.array([one.at_s for one in stream.arrivals(4, (0, 13), 0.2)])
    assert len(thin) == pytest.approx(len(lots), rel=0.03)
    bunched = [np.square(np.histogram(some, 20_160)[0]).mean() for some in (lots, thin)]
    assert bunched[1] == pytest.approx(bunched[0], rel=0.15)


@with_data
def test_the_holes_of_m_mid_are_filled_from_the_nearest_day() -> None:
    pytest.importorskip("pyarrow")
    is_hole = holes(DATA)
    assert int(is_hole.sum()) == 102
    steady, sporadic = read_clients(
        DATA, [("language/m-mid", 14), ("language/m-mid", 75)], ["steady", "sporadic"]
    )
    assert steady.counts[is_hole].min() > 0.3 * np.median(steady.counts)
    assert 0 < sporadic.expected((0, 13)) < 10_000


@with_data
def test_a_client_that_is_not_there_is_named() -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(WorkloadError, match="no rates or no lengths"):
        read_clients(DATA, [("language/m-mid", 999)], ["x"])
