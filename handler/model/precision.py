"""Which number format the convolutions run in: chosen from hardware capability flags, not by benchmarking."""

from __future__ import annotations

import torch

from handler.errors import PrecisionError

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cpu_supports(*instruction_sets: str) -> bool:
    """Whether the processor has one of these, as :func:`torch.cpu.get_capabilities` names them."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in instruction_sets)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Turn ``auto | fp32 | bf16 | fp16 | int8`` into a dtype for ``device``.

    ``auto`` is fp16 on a GPU, bf16 on a processor with AMX or AVX512-BF16, else fp32. An explicit ``bf16`` is always
    obeyed (a processor without it emulates it, slowly); ``fp16`` is refused on a processor without fp16 arithmetic,
    where one photo would take minutes. ``int8`` is for the trunk alone
    (:mod:`handler.model.engines.openvino_engine`): the rest of the network runs as with ``auto``.

    Raises:
        PrecisionError: unknown, or not possible on ``device``.
    """
    if precision not in PRECISIONS:
        raise PrecisionError(f"there is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "int8" and device.type != "cpu":
        raise PrecisionError(f"precision int8 runs on the CPU, not on {device}: choose precision auto")
    if device.type != "cpu":
        return torch.float16 if precision == "auto" else _DTYPES[precision]
    if precision in ("auto", "int8"):
        return torch.bfloat16 if cpu_supports("amx_bf16", "avx512_bf16") else torch.float32
    if precision == "fp16" and not cpu_supports("avx512_fp16", "amx_fp16"):
        raise PrecisionError("this processor has no fp16 arithmetic: choose precision auto, bf16 or fp32")
    return _DTYPES[precision]


def name_of(dtype: torch.dtype) -> str:
    """The short name of a dtype, as in ``model-config.yaml``.

    >>> name_of(torch.bfloat16)
    'bf16'
    """
    return next(name for name, known in _DTYPES.items() if known is dtype)
