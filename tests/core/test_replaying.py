"""A log played again gives itself, or the first line that does not come out."""

import msgspec
import pytest

from core.test_replay import logged
from repertory.core.controller import Controller
from repertory.core.journal import Header, encode_header
from repertory.core.replaying import LogUnfit, Replayed, header_of, replay
from repertory.domain.settings import Favour, Settings


def replayed(lines: list[bytes], settings: Settings | None = None) -> Replayed:
    return replay(lines, lambda record: Controller(settings or Settings(), record))


def test_a_log_gives_itself_again() -> None:
    lines = logged("llama", 3, requests=40)
    assert replayed(lines) == Replayed(len(lines))


def test_headers_in_the_middle_and_a_cut_last_line_end_nothing_early() -> None:
    lines = logged("llama", 3, requests=10)
    header = encode_header(Header("1", Settings(), 5))
    assert replayed([*lines[:4], header, *lines[4:], lines[0][:20]]).decisions == len(lines)


def test_the_first_difference_is_told_with_its_step_event_and_both_sides() -> None:
    lines = logged("llama", 3, requests=40)
    at = next(at for at, line in enumerate(lines) if b'["Load",' in line)
    forged = lines[at].replace(b'"replica_id":"', b'"replica_id":"other-', 1)
    assert forged != lines[at]
    found = replayed([*lines[:at], forged, *lines[at + 1 :]])
    assert found.decisions == at
    assert found.difference is not None
    entry = msgspec.json.decode(lines[at])
    assert found.difference.step == at + 1
    assert found.difference.event.startswith(f"{entry['event'][0]} at ")
    assert "other-" in found.difference.expected
    assert "other-" not in found.difference.found
    assert f"decision {at + 1}, " in found.words


def test_another_brain_differs_and_the_missing_entry_is_nothing() -> None:
    lines = logged("llama", 3, requests=40)
    found = replayed(lines, Settings(favour=Favour.LATENCY, max_waiting=1))
    assert found.difference is not None
    assert not found.is_whole


def test_missing_decisions_are_named_and_what_follows_is_not_compared() -> None:
    lines = logged("llama", 3, requests=40)
    found = replayed([*lines[:20], *lines[25:]])
    assert found.decisions == 20
    assert found.gap is not None
    assert found.gap.startswith("decisions 21 to 25 are missing")


def test_a_log_whose_beginning_was_rotated_away_says_so() -> None:
    found = replayed(logged("llama", 3, requests=10)[7:])
    assert found.gap is not None
    assert found.gap.startswith("the log begins with decision 8")


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"header":1}', b"\x00"])
def test_what_is_no_log_is_refused_with_what_a_log_is(line: bytes) -> None:
    with pytest.raises(LogUnfit, match="no decision log"):
        header_of(line)
