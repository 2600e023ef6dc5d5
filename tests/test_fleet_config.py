"""Fleets and models to simulate, as people write them."""

from pathlib import Path

import pytest

from repertory.config.fleet import models_of, parse_fleet, parse_models, read_fleet
from repertory.domain.errors import ConfigError
from repertory.domain.fleets import Outage
from repertory.perf.datasheets import GPUS, SHAPES

GIB = 1 << 30
EXAMPLE = Path(__file__).parent.parent / "docs" / "fleet.example.yaml"


def test_the_example_of_the_documentation_is_a_fleet() -> None:
    fleet = read_fleet(EXAMPLE)
    assert fleet.words == "8x h100_sxm, 4x l40s, 1x 16 cores"
    assert [machine.node.id for machine in fleet.machines] == ["big", "small0", "small1", "old"]
    assert len({device.id for device in fleet.devices}) == len(fleet.devices)
    assert [spec.name for spec in fleet.models] == ["chat", "code", "ours"]


def test_a_gpu_brings_its_datasheet() -> None:
    (machine,) = parse_fleet("nodes: [{id: a, devices: [{gpu: l4, count: 2}]}]", "f.yaml").machines
    assert [device.id for device in machine.node.devices] == ["a/gpu0", "a/gpu1"]
    assert machine.node.devices[0].memory_bytes == round(24 * GIB * 0.9)
    assert machine.gpus["a/gpu1"] is GPUS["l4"]
    assert machine.bus_bytes_per_s == 64e9, "both links together"
    assert machine.chunk_tokens == 2048


def test_a_node_says_what_its_machine_is() -> None:
    text = """
nodes:
  - id: a
    engine: vllm
    disk: 7GB/s
    bus: 40GB/s
    host_memory: 128GiB
    chunk: 512
    outages: [{at: 1h, for: 5m}, {at: 2h, for: 30}]
    mtbf: 30d
    devices: [{gpu: a100_sxm, memory: 60GiB}]
"""
    (machine,) = parse_fleet(text, "f.yaml").machines
    assert machine.disk_bytes_per_s == 7e9
    assert machine.bus_bytes_per_s == 40e9
    assert machine.node.host_memory_bytes == 128 * GIB
    assert not machine.node.capabilities.host_is_page_cache
    assert machine.engine_start_s == 35.0
    assert machine.outages == (Outage(3600.0, 300.0), Outage(7200.0, 30.0))
    assert machine.mtbf_s == 30 * 86400.0
    assert machine.node.devices[0].memory_bytes == 60 * GIB


def test_layers_stay_in_main_memory_only_where_cores_can_compute_them() -> None:
    text = "nodes: [{id: a, devices: [{gpu: l4}, {cores: 8, memory: 64GiB}]}]"
    (mixed,) = parse_fleet(text, "f.yaml").machines
    (lone,) = parse_fleet("nodes: [{id: a, devices: [{gpu: l4}]}]", "f.yaml").machines
    assert mixed.node.capabilities.partial_layers
    assert not lone.node.capabilities.partial_layers
    assert lone.node.capabilities.host_is_page_cache


def test_a_model_is_like_a_published_one_or_spelled_out() -> None:
    like, other, own = parse_models(
        """
models:
  a: {like: qwen3-8b}
  b: {like: qwen3-8b, context: 4096, devices: 2}
  c: {parameters: 7B, layers: 32, kv_per_token: 128KiB}
""",
        "m.yaml",
    )
    assert like.weights_bytes == 2 * SHAPES["qwen3-8b"].parameters
    assert like.context_tokens == 40960
    assert (other.context_tokens, other.devices_per_replica) == (4096, 2)
    assert (own.weights_bytes, own.layers) == (14_000_000_000, 32)
    assert own.kv_bytes_per_token == 131072


def test_of_a_recipes_models_the_size_is_enough() -> None:
    fleet = parse_fleet("nodes: [{id: a, devices: [{gpu: h100_sxm, count: 8}]}]", "f.yaml")
    small, large = models_of([("s", 7_000_000_000), ("l", 70_000_000_000)], fleet)
    assert (small.layers, small.devices_per_replica) == (32, 1)
    assert (large.layers, large.devices_per_replica) == (80, 4), "a fifth is left for KV"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nodes: []", "f.yaml:1:8: 'nodes' must name at least one node"),
        (
            "nodes:\n  - {id: a, devices: [{gpu: h100}]}",
            "f.yaml:2:29: 'nodes[0].devices[0].gpu' cannot be 'h100'; did you mean 'h100_sxm'?",
        ),
        (
            "nodes:\n  - {id: a, devices: [{cores: 2}]}",
            "f.yaml:2:23: 'nodes[0].devices[0]' needs 'memory', such as 8GiB: a set of cores has "
            "none",
        ),
        (
            "nodes:\n  - {id: a, devices: [{gpu: l4, cores: 2}]}",
            "f.yaml:2:23: 'nodes[0].devices[0]' is a 'gpu' or a set of 'cores'; write one of them",
        ),
        (
            "nodes:\n  - {id: a, devices: [{gpu: l4, memory: 30GiB}]}",
            "f.yaml:2:41: 'nodes[0].devices[0].memory' is more than a l4 has: 24 GiB",
        ),
        (
            "nodes:\n  - {id: a, disk: fast, devices: [{gpu: l4}]}",
            "f.yaml:2:19: 'nodes[0].disk' must be a rate such as 5GB/s, not 'fast'",
        ),
        (
            "nodes:\n  - {id: a, dsk: 5GB/s, devices: [{gpu: l4}]}",
            "f.yaml:2:13: 'nodes[0].dsk' is not known here; did you mean 'disk'?",
        ),
        (
            "nodes:\n  - {id: a, devices: [{gpu: l4}]}\n  - {id: a, devices: [{gpu: l4}]}",
            "f.yaml:3:10: 'nodes[1].id' is taken: there is a node 'a' already",
        ),
        (
            "nodes:\n  - {id: a, outages: [{at: 5, for: 9}, {at: 6, for: 1}], "
            "devices: [{gpu: l4}]}",
            "f.yaml:2:40: 'nodes[0].outages[1]' begins before the one ahead of it has ended",
        ),
        (
            "nodes: [{id: a, devices: [{gpu: l4}]}]\nmodels:\n  x: {layers: 3}",
            "f.yaml:3:3: 'models.x' needs 'like' (a published model), or 'weights' or "
            "'parameters', with 'layers' and 'kv_per_token'",
        ),
        (
            "nodes: [{id: a, devices: [{gpu: l4}]}]\nmodels:\n  x: {like: qwen3-9b}",
            "f.yaml:3:13: 'models.x.like' cannot be 'qwen3-9b'; did you mean 'qwen3-8b'?",
        ),
        (
            "nodes: [{id: a, devices: [{gpu: l4}]}]\nmodels:\n  x: {parameters: 7, layers: 1, "
            "kv_per_token: 1KiB}",
            "f.yaml:3:19: 'models.x.parameters' must be text, not a whole number; "
            'write "7" in quotes',
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_fleet(text, "f.yaml")
    assert complaint in str(caught.value).splitlines()
