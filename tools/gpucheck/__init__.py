"""GPU stage 0: does our engine load, compute, unload and give memory back on this machine's GPU?

Run by `tools/gpu_check.sh`; what it is for and what it prints: `docs/gpu.md`.
"""
