"""The trunk in OpenVINO, for CPUs: convolutions fused with their neighbors, any image size."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from handler.errors import EngineError
from handler.model.engines import IR_NAME, TrunkOutput
from handler.model.engines.torch_engine import as_trunk_output

_OPENVINO_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def import_openvino() -> ModuleType:
    """Import ``openvino`` without its telemetry, which would report every import to its vendor."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVinoEngine:
    """Runs the archive's intermediate representation, made by :mod:`handler.build.convert`, on the CPU.

    Args:
        folder: the unpacked archive.
        dtype: what the convolutions run in; fp32 weights are converted once, at load.
        threads: cores to use.
        levels: the number of RPN levels.

    Raises:
        EngineError: the representation cannot be read or compiled.
    """

    name = "openvino"

    def __init__(self, folder: Path, dtype: torch.dtype, threads: int, *, levels: int) -> None:
        ov = import_openvino()
        try:
            compiled = ov.Core().compile_model(folder / IR_NAME, "CPU", compile_settings(dtype, threads))
        except RuntimeError as error:
            raise unreadable(error) from error
        self._tensor = ov.Tensor
        self._request = compiled.create_infer_request()
        self._levels = levels

    def __call__(self, images: torch.Tensor) -> TrunkOutput:
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()  # no copy: the batch is channels_last
        self._request.infer([self._tensor(pixels, shared_memory=True)], share_outputs=True)
        outputs = [as_torch(tensor) for tensor in self._request.output_tensors]
        return as_trunk_output(outputs, self._levels)


def compile_settings(dtype: torch.dtype, threads: int) -> dict[str, object]:
    """OpenVINO's settings for one request at a time."""
    return {
        "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # with pinning, all workers of a machine would share its first cores
        "ENABLE_CPU_PINNING": False,
    }


def unreadable(error: RuntimeError) -> EngineError:
    """OpenVINO's long message, cut to one sentence."""
    reason = str(error).strip().splitlines()[-1][:200]
    return EngineError(f"OpenVINO cannot load the archive's model ({reason}): export it again")


def as_torch(tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """OpenVINO's (N, H, W, C) as torch's (N, C, H, W), sharing memory."""
    array: np.ndarray = tensor.data
    return torch.from_numpy(array).permute(0, 3, 1, 2)
