"""Public test tools: the fakes, the virtual clock, the kit that every engine passes."""

from repertory.engines.fake import FakeEngine, llama_like, vllm_like
from repertory.testing.clock import VirtualLoop, run_virtual
from repertory.testing.conformance import NotConforming, check_engine

__all__ = [
    "FakeEngine",
    "NotConforming",
    "VirtualLoop",
    "check_engine",
    "llama_like",
    "run_virtual",
    "vllm_like",
]
