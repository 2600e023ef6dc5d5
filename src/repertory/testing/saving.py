"""Check of what an engine says about KV that it saves and copies back."""

from dataclasses import replace

from repertory.domain.events import Measured
from repertory.domain.ladder import Edge, Rung
from repertory.testing.bench import Bench, Heard, require

__all__ = ["check_saved"]


async def check_saved(bench: Bench) -> None:
    """What is said of copies adds up, whether the engine saves anything or not; and a generation
    whose KV came back goes on as one whose KV did not.
    """
    if not bench.can(Rung.SERVING, Edge.DEACTIVATE):
        return
    shape = replace(bench.roomy, sequences=1)
    await bench.serve("r1", shape)
    require(not (await bench.walk(Edge.DEACTIVATE, "r1")).kv_saved_bytes, "KV saved of nothing")
    await bench.walk(Edge.ACTIVATE, "r1", shape)
    whole = await bench.run("r1", "whole", bench.long_tokens)
    _require_sums(bench.heard["whole"], 0)
    gone = await bench.walk(Edge.DEACTIVATE, "r1")
    _require_saved(gone)
    await bench.walk(Edge.ACTIVATE, "r1", shape)
    made = tuple(whole[: len(whole) // 2])
    await bench.submit("r1", "rest", bench.long_tokens, emitted=made)
    rest = await bench.end_of("rest")
    _require_sums(rest, gone.kv_saved_bytes)
    require(len(made) + len(rest.tokens) == len(whole), "a copy changed the length")
    if bench.node.capabilities.exact_resume:
        require([*made, *rest.tokens] == whole, "a copy changed the tokens")


def _require_saved(measured: Measured) -> None:
    require(measured.kv_saved_bytes >= 0, "less than nothing was saved")
    is_saved = measured.kv_saved_bytes > 0
    require((measured.kv_saved_ns > 0) == is_saved, "bytes without time, or time without bytes")
    require(measured.kv_saved_ns <= measured.took_ns, "a copy longer than the move it is part of")


def _require_sums(heard: Heard, saved_bytes: int) -> None:
    """With a first token, and only there."""
    first = heard.restored[0]
    require(not any(any(later) for later in heard.restored[1:]), "told after the first token, too")
    size, took_ns, source, reused = first
    require(0 <= size <= saved_bytes, f"{size} bytes restored of {saved_bytes} that were saved")
    is_restored = size > 0
    require((took_ns > 0) == is_restored, "bytes without time, or time without bytes")
    require(source in ((Rung.HOST, Rung.DISK) if is_restored else (None,)), "from nowhere")
    require(reused > 0 or not is_restored, "KV was copied back, and nothing was reused")
