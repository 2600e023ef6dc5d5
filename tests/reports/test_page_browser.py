"""The page in a real browser: a phone, a desk, the dark, paper."""

import random
import re
from pathlib import Path

import pytest

from repertory.domain.workloads import Ending, Origin, RequestRecord
from repertory.reports.page.logs import digest_log
from repertory.reports.page.page import page
from repertory.reports.page.runs import digest_run
from repertory.traces.summary import parse_slo
from tests.reports.browser import look, needs_browser, printed, shot
from tests.reports.paging import a_small_log, a_small_run, header, record, write_log, write_run

pytestmark = needs_browser

SLO = parse_slo("ttft_p99<2s,tpot_p99<100ms")
LONG = "an-organisation/a-model-whose-name-somebody-did-not-keep-short-7b-instruct-q4_k_m"


def full(folder: Path) -> str:
    """Everything that a page can have, with names and messages that are too long."""
    log_path = write_log(folder / "log", a_small_log(), missing=(6,))
    log = digest_log([log_path], log_path)
    luck = random.Random(11)
    digests = []
    for at, origin in enumerate((Origin.SIMULATED, Origin.MEASURED)):
        for gap_s in (0.5, 0.1):
            for seed, system in ((0, "ours"), (1, "ours"), (0, f"{LONG}:latency")):
                records = [_record(luck, number, gap_s) for number in range(120)]
                path = folder / f"{origin.value}-{gap_s}-{seed}-{len(digests)}.jsonl"
                head = header(
                    system, origin=origin, seed=seed, fleet="4x h100_sxm, " * 6, note="a part" * at
                )
                digests.append(digest_run(write_run(path, head, records), SLO, [log]))
    digests.append(digest_run(write_run(folder / "small", header(), a_small_run()), SLO, [log]))
    return page(digests, [log], SLO)


def _record(luck: random.Random, number: int, gap_s: float) -> RequestRecord:
    model = luck.choice(("a", "b", LONG))
    if luck.random() < 0.1:
        message = "upstream/" + "connection-reset-" * 12
        return record(
            number, number * gap_s, None, model=model, ending=Ending.FAILED, message=message
        )
    return record(number, number * gap_s, luck.expovariate(1.0), model=model)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return full(tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(html: str, tmp_path: Path, width: int) -> None:
    """390 px is a phone; tables that are wider scroll by themselves."""
    found = look(html, tmp_path, width)
    assert found.width == width
    assert found.too_wide == []
    assert found.scroll_width == width
    assert found.title == "Report: small"


def test_a_page_of_nothing_fits_a_phone_too(tmp_path: Path) -> None:
    empty = digest_run(write_run(tmp_path / "empty", header(), []), SLO)
    found = look(page([empty], [], SLO), tmp_path, 390)
    assert (found.scroll_width, found.too_wide, found.complaints) == (390, [], [])


def test_the_browser_has_nothing_to_complain_of_and_asks_for_nothing(
    html: str, tmp_path: Path
) -> None:
    found = look(html, tmp_path, 1280)
    assert found.complaints == []
    assert found.requests == 0


def test_the_checks_above_would_notice(tmp_path: Path) -> None:
    """A page that is too wide, asks for a picture and writes to the console."""
    bad = (
        "<!doctype html><html><head><title>bad</title></head><body style='margin:0'>"
        "<p style='width:900px'>wide</p><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('oh')</script></body></html>"
    )
    found = look(bad, tmp_path, 390)
    assert found.scroll_width == 900
    assert found.too_wide
    assert found.requests == 1
    assert any("oh" in line for line in found.complaints)


def test_letters_in_pictures_keep_their_size_on_a_phone(html: str, tmp_path: Path) -> None:
    found = look(html, tmp_path, 390)
    assert len(found.text_px) > 50
    assert min(found.text_px) >= 10
    assert found.columns == "tabular-nums"


def test_the_dark_is_dark_and_the_light_is_light(html: str, tmp_path: Path) -> None:
    def brightness(colour: str) -> int:
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    light = look(html, tmp_path, 1280)
    dark = look(html, tmp_path, 1280, "--force-dark-mode")
    assert brightness(light.background) > 700 > 200 > brightness(light.ink)
    assert brightness(dark.background) < 150 < 600 < brightness(dark.ink)


def test_it_can_be_seen_and_printed(html: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(html)
    png = shot(path, tmp_path, 1280, 900)
    assert png.startswith(b"\x89PNG")
    assert len(png) > 20_000  # a blank one has some 5,000
    pdf = printed(path, tmp_path)
    assert pdf.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 20
