"""Text goes out only when it is safe: no half characters, no part of a stop string."""

from hypothesis import given
from hypothesis import strategies as st

from repertory.engines.text import TextAssembler


def feed(assembler: TextAssembler, pieces: list[bytes]) -> list[str]:
    return [assembler.feed(piece) for piece in pieces]


def test_half_a_character_is_held_back() -> None:
    assert feed(TextAssembler(), [b"a\xe2", b"\x82", b"\xac!"]) == ["a", "", "€!"]


def test_what_may_become_a_stop_string_is_held_back_and_released_if_it_does_not() -> None:
    assembler = TextAssembler(["END"])
    assert feed(assembler, [b"x E", b"N", b"V", b" EN", b"D y"]) == ["x ", "", "ENV", " ", ""]
    assert assembler.is_stopped
    assert assembler.feed(b"more") == ""


def test_the_end_releases_what_was_held() -> None:
    assembler = TextAssembler(["END"])
    assert feed(assembler, [b"the E"]) == ["the "]
    assert assembler.finish() == "E"


def test_the_stop_string_that_is_complete_first_ends_the_text_however_it_is_cut() -> None:
    for pieces in ([b"aXX"], [b"a", b"X", b"X"]):
        assert "".join(feed(TextAssembler(["X", "aXX"]), pieces)) == "a"
    assembler = TextAssembler(["X", "aXX"])
    assert "".join(feed(assembler, [b"a", b"X", b"b"])) == "a"
    assert assembler.is_stopped


@given(
    st.text(alphabet="ab€X", max_size=30),
    st.lists(st.text(alphabet="ab€X", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 4), min_size=1, max_size=60),
)
def test_any_cut_of_the_bytes_gives_the_same_text(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    raw, pieces, at = text.encode(), [], 0
    while at < len(raw):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(raw[at : at + size])
        at += size
    assembler = TextAssembler(stops)
    got = "".join(feed(assembler, pieces)) + assembler.finish()
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert got == (text[: min(ends)[1]] if ends else text)


def test_the_stop_that_is_complete_first_ends_the_text() -> None:
    for pieces in ([b"aXX"], [b"a", b"X", b"X"]):
        assert "".join(feed(TextAssembler(["X", "aXX"]), pieces)) == "a"
