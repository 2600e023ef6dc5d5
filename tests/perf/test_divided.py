"""The one law of what a device and the CPU beside it compute together."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.domain.readings import DeviceReadings, StepReading
from repertory.domain.specs import DeviceSpec, ModelSpec, WeightsForm
from repertory.engines.llamacpp import CHUNK_TOKENS
from repertory.perf.bytes import share_there
from repertory.perf.divided import divided_s, here_s, prompt_share, share_of
from repertory.perf.fit import profile_from
from repertory.perf.profiles import UNWAITED_TOKENS, prior_profile
from worlds import model

SECONDS = st.floats(1e-4, 10.0)
SHARES = st.floats(0.0, 1.0)
CHUNKS = st.floats(1.0, 40.0)
RPC = DeviceSpec("rpc0", 8 << 30, backend="rpc")
CUDA = DeviceSpec("gpu0", 8 << 30, backend="cuda")
PLAIN = WeightsForm.PLAIN


@given(SHARES, SECONDS, SECONDS, CHUNKS)
def test_what_is_hidden_is_never_more_than_the_smaller_part(
    share: float, there_s: float, elsewhere_s: float, chunks: float
) -> None:
    parts = share * there_s, (1.0 - share) * elsewhere_s
    seconds = divided_s(share, there_s, elsewhere_s, 0.0, chunks)
    assert max(parts) - 1e-12 <= seconds <= sum(parts) + 1e-12
    assert divided_s(share, there_s, elsewhere_s) == pytest.approx(sum(parts))


@given(st.floats(0.0, 0.95), SECONDS, SECONDS, CHUNKS)
def test_the_host_is_found_again_from_two_points(
    share: float, there_s: float, elsewhere_s: float, chunks: float
) -> None:
    seconds = divided_s(share, there_s, elsewhere_s, 0.0, chunks)
    assert here_s(share, there_s, seconds, chunks) == pytest.approx(elsewhere_s, rel=1e-6)


def test_a_prompt_does_not_read_the_head() -> None:
    """Its tokens need no output, but for the last one: layers alone are counted."""
    for layers in range(1, 17):
        share = share_of(layers, 16, 28, 160)
        assert prompt_share(share, 28 / 188) == pytest.approx(layers / 16)
    assert prompt_share(0.0, 28 / 188) == 0.0


def test_only_an_rpc_device_is_not_waited_for_between_chunks() -> None:
    spec = model("a", layers=16)
    share = share_there(spec, 8)
    assert UNWAITED_TOKENS == CHUNK_TOKENS
    rpc, cuda = prior_profile(spec, RPC), prior_profile(spec, CUDA)
    assert (rpc.chunks(256), cuda.chunks(256)) == (2.0, 1.0)
    assert rpc.prefill_s(PLAIN, 100, 0, share) == cuda.prefill_s(PLAIN, 100, 0, share)
    assert rpc.prefill_s(PLAIN, 256, 0, share) < cuda.prefill_s(PLAIN, 256, 0, share)
    assert rpc.decode_s(PLAIN, 1, 100, share) == cuda.decode_s(PLAIN, 1, 100, share)


def _read(spec: ModelSpec, layers: int | None, tokens: int, seconds: float) -> StepReading:
    share = share_there(spec, layers)
    return StepReading(False, PLAIN, layers, share, 1, tokens, 0, (seconds,))


def test_prompts_on_the_asymmetric_pair_follow_from_two_placements() -> None:
    """Medians of five of a 300M q8_0, seconds (docs/results/costs.md): 256 tokens in two chunks,
    100 in one.  Measured with 4 and with all of 16 layers there; held against 8 and 12.
    """
    spec = replace(model("a", 258 << 20, layers=16), head_bytes=38 << 20)
    for tokens, bar, read in (
        (256, 0.06, {4: 5.241, 8: 3.665, 12: 2.112, None: 0.792}),
        (100, 0.02, {4: 2.078, 8: 1.495, 12: 0.915, None: 0.315}),
    ):
        steps = (
            _read(spec, None, 1, read[None] / tokens),  # a law of prompts needs two lengths
            _read(spec, None, tokens, read[None]),
            _read(spec, 4, tokens, read[4]),
        )
        known = DeviceReadings("rpc0", "rpc", 0, steps=steps)
        found = profile_from(prior_profile(spec, RPC), known, spec.weights_bytes)
        for layers in (8, 12):
            said = found.prefill_s(PLAIN, tokens, 0, share_there(spec, layers))
            assert said == pytest.approx(read[layers], rel=bar)
