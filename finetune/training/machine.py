"""The machine and the software versions that a run is recorded with."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import import_module
from pathlib import Path

import psutil
import torch


def describe_machine(device: str) -> str:
    """One line for reports: the GPUs, or the processor and its number of cores."""
    if device.startswith("cuda"):
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(device)}"
    return f"{_cpu_info('model name') or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def usable_cores() -> int:
    """The cores that this process may run on."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1


def package_versions() -> dict[str, str]:
    """The versions of the packages that results depend on.

    Read from the modules: Detectron2 has several distribution names (``detectron2`` from GitHub,
    ``sal-detectron2`` as a wheel).
    """
    modules = ("torch", "torchvision", "detectron2", "numpy")
    return {"python": platform.python_version()} | {
        name: str(import_module(name).__version__) for name in modules
    }


@cache
def supports_bfloat16(device: str) -> bool:
    """Whether the device computes in bfloat16 natively; emulated bfloat16 is slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(_cpu_info("flags").split())


def _cpu_info(key: str) -> str:
    """The first value of a key in Linux's /proc/cpuinfo; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
