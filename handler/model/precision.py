"""Which number format the convolutions run in. Judged from what the processor says, never by measuring."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PrecisionError(Exception):
    """The asked precision is unknown, or this machine cannot compute in it; one sentence."""


@cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets the kernel reports (``/proc/cpuinfo``); empty where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split()) for line in lines if line.startswith("flags")), frozenset())


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Turn ``auto | fp32 | bf16 | fp16 | int8`` into a dtype for ``device``.

    ``auto`` is fp16 on a GPU, bf16 on a processor with AMX or AVX512-BF16, else fp32. An explicit ``bf16`` is
    always obeyed (it is emulated, and slow, where the processor lacks it); ``fp16`` on a processor without
    fp16 arithmetic is refused, since there torch would answer in minutes. ``int8`` is for the trunk alone
    (:mod:`handler.model.engines.int8_engine`): what stays in floating point runs as ``auto`` says.

    Raises:
        PrecisionError
    """
    if precision not in PRECISIONS:
        raise PrecisionError(f"there is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "int8" and device.type != "cpu":
        raise PrecisionError(f"precision int8 runs on the CPU, not on {device}: choose precision auto")
    if device.type != "cpu":
        return torch.float16 if precision == "auto" else _DTYPES[precision]
    flags = cpu_flags()
    if precision in ("auto", "int8"):
        return torch.bfloat16 if flags & {"amx_bf16", "avx512_bf16"} else torch.float32
    if precision == "fp16" and not flags & {"avx512_fp16", "amx_fp16"}:
        raise PrecisionError("this processor has no fp16 arithmetic: choose precision auto, bf16 or fp32")
    return _DTYPES[precision]


def name_of(dtype: torch.dtype) -> str:
    """The short name of a dtype, as in ``model-config.yaml``.

    >>> name_of(torch.bfloat16)
    'bf16'
    """
    return next(name for name, known in _DTYPES.items() if known is dtype)
