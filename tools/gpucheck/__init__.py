"""The GPU check: does our engine load, compute, unload and give memory back on this machine's GPU,
and what does everything cost there?

Run by `tools/gpu_check.sh`; what it is for and what it prints: `docs/gpu.md`.
"""
