"""What this machine is and can do."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch


def describe_machine(device: str) -> str:
    """One line for reports on what was done on ``device``: its GPU, or processor and cores."""
    if device.startswith("cuda"):
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"{_cpu_info('model name') or platform.processor()}, {os.cpu_count()} cores"


def package_versions() -> dict[str, str]:
    """The versions on which results depend."""
    names = {"torch": "torch", "torchvision": "torchvision", "detectron2": "sal-detectron2", "numpy": "numpy"}
    versions = {"python": platform.python_version()}
    for name, distribution in names.items():
        try:
            versions[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def computes_in_bfloat16(device: str) -> bool:
    """Whether the device has units for bfloat16, so that it is quicker there than fp32, not slower."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _cpu_info("flags").split()
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _cpu_info(key: str) -> str:
    """The first value of a key of /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
