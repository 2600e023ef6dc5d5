"""`repertory simulate --engine vllm`: real runs of others, and files that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from repertory.cli import main

_PROFILES = Path("../shared/data/profiles")
_RUN = _PROFILES / "llmservingsim/bench/RTXPRO6000/Qwen3-32B/vllm/requests.jsonl"
_QWEN: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 64,
    "hidden_size": 5120,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 25600,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}

pytestmark = pytest.mark.skipif(not _PROFILES.is_dir(), reason=f"{_PROFILES} is not here")


class _Desk:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = folder / "config.json"
        self.workload = folder / "workload.jsonl"
        self.config.write_text(json.dumps(_QWEN))
        self.write({"at_s": 0, "model": "m", "prompt_tokens": 100, "output_tokens": 5})
        self._capsys = capsys

    def write(self, *rows: dict[str, Any]) -> None:
        self.workload.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def simulate(self, *more: str, gpu: str = "h100", workload: Path | None = None) -> Any:
        """The document, or what was said instead."""
        arguments = ["simulate", "--engine", "vllm", "--gpu", gpu]
        arguments += ["--model-config", str(self.config), "--profiles", str(_PROFILES)]
        arguments += ["--workload", str(workload or self.workload), "--json", *more]
        code = main(arguments)
        said = self._capsys.readouterr()
        return json.loads(said.out) if code == 0 else said.err


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> _Desk:
    return _Desk(tmp_path, capsys)


def test_a_real_run_of_300_requests(desk: _Desk) -> None:
    flags = ("--tp", "2", "--max-num-seqs", "128", "--max-num-batched-tokens", "2048")
    found = desk.simulate(*flags, gpu="rtx_pro_6000", workload=_RUN)
    rows = [json.loads(line) for line in _RUN.read_text().splitlines()]
    assert [one["request_id"] for one in found["requests"]] == [row["request_id"] for row in rows]
    assert [one["output_tokens"] for one in found["requests"]] == [r["output_toks"] for r in rows]
    for one in found["requests"]:
        assert one["arrival_s"] <= one["queued_s"] < one["first_token_s"] < one["finished_s"]
    real = sum(row["last_token_ts"] - row["queued_ts"] for row in rows)
    simulated = sum(one["finished_s"] - one["queued_s"] for one in found["requests"])
    assert simulated == pytest.approx(real, rel=0.05)
    assert found["summary"]["kernel_times"] == "layers of this model"


@pytest.mark.parametrize("gpu", ["h100", "h200_sxm", "A100", "l40s", "rtx-pro-6000"])
def test_any_profiled_gpu_serves_a_dense_model(desk: _Desk, gpu: str) -> None:
    (one,) = desk.simulate("--tp", "4", gpu=gpu)["requests"]
    assert 0 < one["first_token_s"] < 1 < 100 * one["finished_s"]


def test_a_mixture_of_experts_reads_less_for_one_request_than_its_size(desk: _Desk) -> None:
    (dense,) = desk.simulate("--tp", "2")["requests"]
    moe = _QWEN | {"architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 48}
    moe |= {"hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4}
    moe |= {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
    desk.config.write_text(json.dumps(moe))
    (sparse,) = desk.simulate("--tp", "2")["requests"]
    assert sparse["finished_s"] < dense["finished_s"] / 2


@pytest.mark.parametrize(
    ("flags", "gpu", "words"),
    [
        ((), "b300", "'b300' was not profiled; profiled: a100, h100, h200, l40s, rtx_4090"),
        (("--tp", "3"), "h100", "tp 3 does not divide 64 attention heads"),
        (("--tp", "16"), "h100", "tp 16 was not profiled"),
        ((), "a100_pcie", "'a100_pcie' was not profiled; profiled: a100, h100"),
        ((), "h100-pcie", "; h100 is h100_sxm"),
        ((), "l40s", "no room for KV"),
        (("--max-num-seqs", "4096"), "h100", "is less than max_num_seqs"),
        ((), "rtx_4090", "only whole layers of certain models"),
        (("--requests", "1", "--seeds", "2"), "h100", "--seeds, --requests: of fleets"),
        (("--tp", "2", "--num-gpu-blocks-override", "4"), "h100", "more than all KV memory"),
    ],
)
def test_what_cannot_be_simulated_is_said(
    desk: _Desk, flags: tuple[str, ...], gpu: str, words: str
) -> None:
    assert words in desk.simulate(*flags, gpu=gpu)


def test_blocks_of_fp8_are_not_guessed_from_matrices_of_128(desk: _Desk) -> None:
    quantised = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    desk.config.write_text(json.dumps(_QWEN | {"quantization_config": quantised}))
    assert desk.simulate(gpu="h100")["summary"]["requests"] == 1
    said = desk.simulate(gpu="rtx_pro_6000")
    assert "no GEMM of fp8_block as large as the model's" in said
    assert "without quantization_config it is seen in 16 bits" in said


def test_heads_of_a_size_between_profiled_ones_cost_what_lies_between(desk: _Desk) -> None:
    """Phi-3's have 96."""
    desk.write({"at_s": 0, "model": "m", "prompt_tokens": 8000, "output_tokens": 500})
    ended = []
    for size in (64, 96, 128):
        desk.config.write_text(json.dumps(_QWEN | {"head_dim": size}))
        ended.append(desk.simulate("--tp", "2")["requests"][0]["finished_s"])
    assert ended == sorted(ended)
    desk.config.write_text(json.dumps(_QWEN | {"head_dim": 24}))
    assert "heads of 24 were not profiled" in desk.simulate("--tp", "2")


def test_requests_without_an_id_are_called_by_their_row(desk: _Desk) -> None:
    row = {"at_s": 0, "model": "m", "prompt_tokens": 100, "output_tokens": 5}
    desk.write(row, row | {"request_id": None}, row | {"request_id": 7})
    found = [one["request_id"] for one in desk.simulate("--tp", "2")["requests"]]
    assert found == ["row-1", "row-2", "7"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"at_s": 1.0}, "before the row ahead"),
        ({"at_s": -1.0}, "at_s: -1.0 is no time"),
        ({"at_s": "noon"}, "at_s: 'noon'"),
        ({"prompt_tokens": 0}, "prompt_tokens: 0 is no number"),
        ({"output_tokens": -4}, "output_tokens: -4"),
        ({"prompt_tokens": 1 << 40}, "prompt_tokens"),
        ({"model": "other"}, "one engine serves one model"),
    ],
)
def test_a_row_that_is_wrong_is_named(desk: _Desk, row: dict[str, Any], words: str) -> None:
    good = {"at_s": 2.0, "model": "m", "prompt_tokens": 100, "output_tokens": 5}
    desk.write(good, good | row)
    said = desk.simulate("--tp", "2")
    assert "workload.jsonl:2:" in said
    assert words in said


def test_a_request_longer_than_the_context_is_named(desk: _Desk) -> None:
    desk.write({"at_s": 0, "model": "m", "prompt_tokens": 40960, "output_tokens": 1})
    assert "40961 tokens are more than the model's context of 40960" in desk.simulate("--tp", "2")


def test_an_empty_workload_is_an_error(desk: _Desk) -> None:
    desk.write()
    assert "there is no request in it" in desk.simulate("--tp", "2")
