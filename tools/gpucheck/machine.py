"""What this machine is: the CPU, the GPU by nvidia-smi's account, and the compiler."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from gpucheck.result import Machine

__all__ = ["describe", "smi_used_bytes"]

_MIB = 1 << 20


def describe() -> Machine:
    """Asked anew for each report."""
    gpu = _smi("name,driver_version,compute_cap,memory.total")
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        python=platform.python_version(),
        gpu=gpu[0] if gpu else None,
        driver=gpu[1] if gpu else None,
        compute_capability=gpu[2] if gpu else None,
        gpu_memory_bytes=_mib(gpu[3]) if gpu else None,
        nvcc=_nvcc(),
    )


def smi_used_bytes() -> int | None:
    """What nvidia-smi says is in use on the first GPU; None: there is no nvidia-smi."""
    told = _smi("memory.used")
    return _mib(told[0]) if told else None


def _mib(told: str) -> int | None:
    """Where a GPU is shared in slices, nvidia-smi says "[N/A]"."""
    return int(told) * _MIB if told.isdigit() else None


def _smi(fields: str) -> list[str] | None:
    """nvidia-smi's answer for the first GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if asked.returncode != 0:
        return None
    return [field.strip() for field in asked.stdout.splitlines()[0].split(",")]


def _nvcc() -> str | None:
    if shutil.which("nvcc") is None:
        return None
    asked = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=False)
    release = re.search(r"V([0-9.]+)", asked.stdout)
    return release and release[1]


def _cpu_name() -> str:
    name = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return name[1] if name else platform.machine()
