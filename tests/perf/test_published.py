"""The paper's Tables II and III (Yildiz 2026, papers.md §1.4) as fixtures of our laws."""

import pytest

from repertory.domain.ladder import Rung
from repertory.domain.readings import DeviceReadings, KvReading, LoadReading
from repertory.domain.specs import DeviceSpec, WeightsForm
from repertory.engines.gguf.facts import describe_headers
from repertory.engines.gguf.header import Header, Tensor
from repertory.perf.fit import fit_law, profile_from
from repertory.perf.profiles import Law, prior_profile
from repertory.policy.requests.preempt import Stake, worth_stopping
from worlds import GIB, MIB, model

MODELS = ("3B", "8B", "14B")
WEIGHTS_BYTES = dict(zip(MODELS, (5.9e9, 15.6e9, 28.3e9), strict=True))
SHAPES = dict(zip(MODELS, ((36, 16, 2), (36, 32, 8), (48, 40, 8)), strict=True))
"""Layers, heads, heads of keys and values; each of 128."""
KV_BYTES_PER_TOKEN = dict(zip(MODELS, (36_864, 147_456, 196_608), strict=True))
KV_MIB = dict(zip(MODELS, (178, 713, 951), strict=True))
"""Table III, at some 5000 tokens."""
OUT_S = dict(zip(MODELS, (0.0180, 0.0678, 0.0867), strict=True))
IN_S = dict(zip(MODELS, (0.0144, 0.0459, 0.0625), strict=True))
TOTAL_S = {
    "RTX 5000 Ada": dict(zip(MODELS, (2.98, 5.16, 7.31), strict=True)),
    "RTX A6000": dict(zip(MODELS, (2.62, 4.06, 5.73), strict=True)),
}
"""Table II: one preemption, all told."""
KV_SHARE = {
    "RTX 5000 Ada": dict(zip(MODELS, (0.006, 0.010, 0.009), strict=True)),
    "RTX A6000": dict(zip(MODELS, (0.008, 0.015, 0.012), strict=True)),
}
CARD = DeviceSpec("gpu0", 32 * GIB, backend="cuda")
CARDS = sorted(TOTAL_S)


@pytest.mark.parametrize("name", MODELS)
def test_kv_bytes_per_token_are_the_papers_to_the_byte(name: str) -> None:
    layers, heads, kv_heads = SHAPES[name]
    values: dict[str, int | str] = {
        "general.architecture": "qwen2",
        "qwen2.block_count": layers,
        "qwen2.embedding_length": heads * 128,
        "qwen2.attention.head_count": heads,
        "qwen2.attention.head_count_kv": kv_heads,
        "qwen2.context_length": 8192,
    }
    header = Header(
        values, {"tokenizer.ggml.tokens": 32}, (Tensor("t", "f32", (32,), 128),), 64, 192
    )
    facts = describe_headers(
        [header], "", batch_tokens=512, flash_attention=True, features=frozenset()
    )
    assert facts.kv_bytes_per_token == KV_BYTES_PER_TOKEN[name]
    tokens = KV_MIB[name] * MIB / facts.kv_bytes_per_token
    assert tokens == pytest.approx(5065, rel=0.005), "5000 new ones behind one prompt"


@pytest.mark.parametrize("seconds", [OUT_S, IN_S], ids=["out", "in"])
def test_kv_moves_in_a_fixed_time_and_by_the_byte(seconds: dict[str, float]) -> None:
    law = fit_law([(KV_MIB[name] * MIB, (seconds[name],)) for name in MODELS])
    for name in MODELS:
        assert law.seconds(KV_MIB[name] * MIB) == pytest.approx(seconds[name], rel=0.04)


@pytest.mark.parametrize("card", CARDS)
def test_two_models_preemptions_tell_the_third_within_six_percent(card: str) -> None:
    """The swap is a fixed part and bytes over a bandwidth: neither the point nor the other model is
    in it.  What the paper calls fixed per model is this law at that model's bytes.
    """
    ends = [(WEIGHTS_BYTES[name], (TOTAL_S[card][name],)) for name in ("3B", "14B")]
    law = fit_law(ends)
    assert law.seconds(WEIGHTS_BYTES["8B"]) == pytest.approx(TOTAL_S[card]["8B"], rel=0.065)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_penalty_of_a_preemption_is_the_papers_total(card: str, name: str) -> None:
    """Readings of its swap and its KV become a profile, and the verdict's penalty is their sum."""
    weights, kv = round(WEIGHTS_BYTES[name]), KV_MIB[name] * MIB
    swap_s = TOTAL_S[card][name] * (1.0 - KV_SHARE[card][name])
    spec = model(name, weights, kv_bytes_per_token=KV_BYTES_PER_TOKEN[name])
    load = LoadReading(
        WeightsForm.PLAIN, Rung.HOST, None, 1.0, weights, (0.9 * swap_s,), (0.1 * swap_s,)
    )
    moved = KvReading(5000, kv, None, (OUT_S[name],), (IN_S[name],))
    read = DeviceReadings(CARD.id, CARD.backend, 0, loads=(load,), kv=(moved,))
    profile = profile_from(prior_profile(spec, CARD), read, weights)
    there_s = profile.unload_s
    back_s = profile.load_s(WeightsForm.PLAIN, Rung.HOST, weights)
    resume_s = profile.kv_out.seconds(kv) + profile.kv_in.seconds(kv)
    stop = worth_stopping(1.0, [Stake("a", 1.0, 100.0, resume_s)], there_s, 0.0, back_s)
    assert stop is not None
    assert stop.penalty_s == pytest.approx(TOTAL_S[card][name], rel=0.02)
    assert resume_s < 0.03 * stop.penalty_s, "reloading is what costs"
    assert stop.is_worth_it, "seconds against the minutes that it would go on for"


def test_one_size_of_kv_gives_a_bandwidth() -> None:
    law = fit_law([(float(KV_MIB["8B"] * MIB), (OUT_S["8B"],))])
    assert law == Law(0.0, OUT_S["8B"] / (KV_MIB["8B"] * MIB))
    assert 1.0 / law.per_unit_s == pytest.approx(11e9, rel=0.1), "GB/s of the paper: 10 to 12"
