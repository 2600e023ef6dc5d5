"""llama.cpp, embedded through the low-level module of llama-cpp-python."""

__all__ = ["CHUNK_TOKENS"]

CHUNK_TOKENS = 128
"""The most tokens of a prefill step, in both modes.  Measured on two cores, 300M q8_0: 458 tok/s
at 128, 454 at 256, 395 at 512; and a short step leaves the device sooner to another model."""
