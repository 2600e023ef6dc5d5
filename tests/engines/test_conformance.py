"""The llama.cpp engine keeps the contract, in both modes; so do both fakes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from running import running_engine, spec_of

from accelerating import rpc_server
from repertory.domain.specs import DeviceSpec
from repertory.engines.fake import FakeEngine, llama_like, vllm_like
from repertory.testing.clock import VirtualLoop, run_virtual
from repertory.testing.conformance import check_engine
from worlds import GIB, MIB, model

SAVING = ("--saved-kv-bytes", str(256 * MIB))


@pytest.mark.parametrize("flags", [SAVING, ("--exact", *SAVING)], ids=["default", "exact"])
def test_llamacpp_keeps_the_contract(model_file, flags):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file(), "one")
    other = spec_of(model_file(arch="qwen3", weights="q4_0"), "other")
    passed = asyncio.run(check_engine(lambda: running_engine(*flags), spec, other))
    assert {"ladder", "resize", "sharing", "saved", "close"} <= set(passed)


def test_llamacpp_with_an_accelerator_keeps_the_contract(model_file):  # type: ignore[no-untyped-def]
    spec = spec_of(model_file(), "one")
    with rpc_server() as server:
        flags = ("--rpc", server.endpoint)
        passed = asyncio.run(check_engine(lambda: running_engine(*flags), spec))
    assert "layers" in passed


DEVICES = (DeviceSpec("dev0", 8 * GIB), DeviceSpec("dev1", 8 * GIB))
FAKES = {
    "llama-like": (llama_like(DEVICES), 1, {"ladder", "resize", "sharing", "layers", "close"}),
    "vllm-like": (vllm_like(DEVICES), 1, {"ladder", "close"}),
    "vllm-like on two devices": (vllm_like(DEVICES), 2, {"ladder", "close"}),
}


@pytest.mark.parametrize("name", FAKES)
def test_fakes_keep_the_contract(name: str) -> None:
    node, width, least = FAKES[name]

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[FakeEngine]:
        yield FakeEngine(node)

    async def main(_: VirtualLoop) -> tuple[str, ...]:
        one = model("one", devices_per_replica=width)
        return await check_engine(opened, one, model("other", 300 * MIB))

    passed = set(run_virtual(main))
    assert least <= passed
    assert ("layers" in passed) == node.capabilities.partial_layers
