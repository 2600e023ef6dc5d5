"""Frames between server and worker."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.domain.errors import WorkerGone
from repertory.engines.wire import Beat, Reply, decode_from_worker, encode, take_payloads

MESSAGES = [
    Beat(5, 7),
    Reply(1, msgspec.Raw(msgspec.msgpack.encode(None))),
    Reply(2, msgspec.Raw(msgspec.msgpack.encode("x" * 300))),
]


@given(st.lists(st.sampled_from(MESSAGES)), st.lists(st.integers(1, 400), min_size=1))
def test_messages_come_whole_however_the_bytes_are_cut(messages, cuts):  # type: ignore[no-untyped-def]
    sent = b"".join(encode(one) for one in messages)
    received, heard, at = bytearray(), [], 0
    while at < len(sent):
        for cut in cuts:
            received += sent[at : at + cut]
            at += cut
            heard += [decode_from_worker(one) for one in take_payloads(received)]
    assert heard == messages
    assert not received


def test_a_peer_that_speaks_another_language_is_no_worker() -> None:
    with pytest.raises(WorkerGone, match="another language"):
        list(take_payloads(bytearray(b"HTTP/1.1 200 OK")))
