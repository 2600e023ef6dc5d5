"""llama.cpp, embedded through the low-level module of llama-cpp-python."""

__all__ = ["CHUNK_TOKENS", "ENVIRONMENT"]

CHUNK_TOKENS = 128
"""The most tokens of a prefill step, in both modes.  Measured on two cores, 300M q8_0: 458 tok/s
at 128, 454 at 256, 395 at 512; and a short step leaves the device sooner to another model."""

ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Of a worker, read before its first line runs: what is 2 MiB or more comes in pages of 2 MiB,
where the kernel has them.  A context's cells are all written when it is made, so that making one is
mostly the kernel giving pages.  Measured on a busy machine, 300M, 4 x 1,024 cells (128 MiB), ms:
made in 221 and freed in 36 with pages of 4 KiB, 55 and 1 with large ones; it takes 2 MiB more."""
