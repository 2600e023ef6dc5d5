"""Workloads and runs as files: what is asked of a system, and what came of it."""
