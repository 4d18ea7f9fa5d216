"""The floor under a figure: the network's multiply-adds at the speed that this machine reaches in a matrix product.

A figure of 80 % of the floor leaves a fifth to gain, whoever writes the code. Winograd's convolutions need fewer
multiply-adds, so a little more than 100 % is possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from handler.model.precision import cpu_supports

SIDE = 2048
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def native_types() -> list[str]:
    """The precisions that this processor computes itself: emulated bf16 takes hours and says nothing."""
    return ["fp32", *["bf16"] * cpu_supports("amx_bf16", "avx512_bf16")]


def products() -> dict[str, Callable[[], object]]:
    """A product of two square matrices in each native precision, to be timed in turn with the contestants."""
    pairs = {name: torch.rand(2, SIDE, SIDE).to(TYPES[name]) for name in native_types()}
    return {f"product {name}": (lambda pair=pair: pair[0] @ pair[1]) for name, pair in pairs.items()}


def multiply_adds(call: Callable[[], object]) -> int:
    """Those of the convolutions and matrix products in ``call``."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


def floors(adds: int, seconds: MutableMapping[str, Sequence[float]]) -> dict[str, float]:
    """Precision → milliseconds of the floor. Takes the products' times out of ``seconds``."""
    times = {name: seconds.pop(f"product {name}") for name in native_types()}
    return {name: 1e3 * adds / SIDE**3 * median(each) for name, each in times.items()}


def share(name: str, milliseconds: float, floor: Mapping[str, float]) -> float | None:
    """The floor as a share of a contestant's time, by the precision in its name (fp32 where it has none).

    None for int8, whose peak is not measured.
    """
    precision = next((each for each in ("bf16", "fp16", "int8") if each in name), "fp32")
    return floor[precision] / milliseconds if precision in floor else None
