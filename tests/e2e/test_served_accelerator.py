"""A model on an accelerator and in main memory at once, and what remains when the device dies."""

import re
from pathlib import Path

import pytest
from serving import RunningServer, Start, wait_for
from test_served_faults import Reader

from accelerating import RpcServer, rpc_server
from repertory.engines.gguf.make import make_model

CONFIG = """\
models:
  big: {{path: {model}}}
rpc: ["{endpoint}"]
devices:
  - {{id: cpu0, cores: [0, 1], memory: 250MiB}}
  - {{id: RPC0, memory: 60MiB}}
"""
"""On RPC0 there is room for its head, its buffers and some of its layers."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "big.gguf"
    make_model(path, size="50m", weights="q8_0")
    return path


def begin(start: Start, device: RpcServer, model: Path, folder: Path) -> RunningServer:
    config = folder / "x.yaml"
    config.write_text(CONFIG.format(model=model, endpoint=device.endpoint))
    return start(config, "--exact")


def test_layers_are_divided_and_both_budgets_kept(
    start: Start, model: Path, tmp_path: Path
) -> None:
    with rpc_server() as device:
        server = begin(start, device, model, tmp_path)
        stream = Reader(server, "big", max_tokens=64)
        assert stream.join().error is None, stream.error
        words = server.model("big")["device"].split()
        assert words[0] == "RPC0"
        assert 0 < int(words[1].removeprefix("(")) < 8
        for one in server.ps()["devices"]:
            assert 0 < one["charged_bytes"] <= one["peak_charged_bytes"] <= one["budget_bytes"]
        layers = words[1].removeprefix("(")
        _check_told(server.repertory("why", "big", "--state-dir", str(server.state_dir)), layers)
        page = server.get("/metrics")[1].decode()
        assert 0.9 < _value(page, 'prediction_memory_ratio_sum{edge="load"}') < 1.1


def _check_told(told: str, layers: str) -> None:
    """Some layers there, fewer of them, none: each with its seconds and bytes; and what came."""
    takes = r" +[0-9.]+ m?s +[0-9.]+ m?s +[0-9.]+ MiB"
    assert re.search(rf"\* free memory on RPC0, \w+, {layers} layers, \S+{takes}", told), told
    assert len(re.findall(rf"free memory on RPC0, \w+, \d+ layers, \S+{takes}", told)) > 1, told
    assert re.search(rf"  free memory on cpu0, \w+, \S+{takes}", told), told


def _value(page: str, series: str) -> float:
    found = re.search(re.escape(f"repertory_{series} ") + r"(\S+)", page)
    assert found, series
    return float(found[1])


def test_streams_outlive_the_device(start: Start, model: Path, tmp_path: Path) -> None:
    """Its worker dies with it, the next one starts without it, and the cores go on with the stream,
    on the same connection and in mode `exact` with the same text."""
    with rpc_server() as device:
        server = begin(start, device, model, tmp_path)
        stream = Reader(server, "big", max_tokens=600)
        wait_for(lambda: stream.tokens > 40 or stream.error)
        assert server.model("big")["device"].startswith("RPC0 (")
        device.kill()
        assert stream.join().error is None, stream.error
    assert stream.finish == "length"
    assert server.model("big")["device"] == "cpu0"
    assert stream.text == Reader(server, "big", max_tokens=600).join().text
