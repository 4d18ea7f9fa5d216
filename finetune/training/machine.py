"""The machine and the software versions that a run is recorded with."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import import_module
from pathlib import Path

import psutil
import torch

# Estimates for ResNet-50 at 800 pixels and batch 8, which no GPU has measured: a photo keeps the GPU busy for 2 to 4 ms
# and a core for 50.
WORKER_BYTES, WORKER_CORES, WORKERS_PER_GPU = 6 * 2**30, 2, 4


def describe_machine(device: str) -> str:
    """One line for reports: the GPUs, or the processor and its number of cores."""
    if device.startswith("cuda"):
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(device)}"
    return f"{_cpu_info('model name') or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def usable_cores() -> int:
    """The cores that this process may run on."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1


def workers_that_fit() -> int | None:
    """TorchServe workers that this machine's GPUs have free memory for and its cores can feed; None without a GPU."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    room = sum(int(torch.cuda.mem_get_info(gpu)[0] // WORKER_BYTES) for gpu in gpus)
    fed = usable_cores() // WORKER_CORES
    return max(len(gpus), min(room, fed, WORKERS_PER_GPU * len(gpus))) if gpus else None


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
