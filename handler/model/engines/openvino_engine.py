"""The network in OpenVINO, for CPUs: convolutions fused with their neighbors."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from handler.errors import EngineError
from handler.model.engines import TrunkOutput
from handler.model.engines.torch_engine import as_trunk_output

_OPENVINO_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
_ASPECT_RATIOS = (1.0, 4 / 3, 3 / 2)

Shape = tuple[int, int]


def import_openvino() -> ModuleType:
    """Import ``openvino`` without its telemetry, which would report every import to its vendor."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def buckets(short_side: int, long_side: int, multiple: int) -> list[Shape]:
    """A few shapes (height, width), by area, of which one holds any resized photo.

    >>> buckets(800, 1333, 32)
    [(800, 800), (800, 1088), (1088, 800), (800, 1216), (1216, 800), (800, 1344), (1344, 800)]
    """

    def up(side: float) -> int:
        return -(-int(side + 0.5) // multiple) * multiple

    longs = {up(min(short_side * ratio, long_side)) for ratio in _ASPECT_RATIOS} | {up(long_side)}
    shapes = {shape for long in longs for shape in ((up(short_side), long), (long, up(short_side)))}
    return sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))


def from_torch(module: nn.Module, shape: Sequence[int]) -> Any:
    """An OpenVINO model of ``module``, traced with zeros of ``shape``; the sizes of its inputs are dynamic.

    Weights stay in fp32, so that fp32 answers equal torch's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of each of Detectron2's assertions
        return import_openvino().convert_model(module.eval(), example_input=torch.zeros(*shape))


class OpenVinoEngine:
    """Runs the network on the CPU: the trunk from an archive's intermediate representation, made by ``handler/build``.

    The heads are converted when they are loaded, so the archive need not carry their weights twice.

    Args:
        path: the representation's ``.xml``.
        dtype: what the convolutions run in (of the int8 model: those that are not quantized).
        threads: cores to use.
        levels: the number of RPN levels.
        shapes: fixed (height, width), by area; each is compiled, in about a second, and a single image is padded to the
            first that holds it. By default the shapes are dynamic. The int8 model needs fixed ones: with dynamic
            shapes it crashed the process (OpenVINO 2026.4).

    Raises:
        EngineError: the representation cannot be read or compiled.
    """

    name = "openvino"
    pooled_dtype = torch.float32  # converted inside, where that is fused with something

    def __init__(
        self,
        path: Path,
        dtype: torch.dtype,
        threads: int,
        *,
        levels: int,
        shapes: Sequence[Shape | None] = (None,),
    ) -> None:
        ov = import_openvino()
        self._core = ov.Core()
        self._tensor = ov.Tensor
        self._settings = {
            "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # with pinning, all workers of a machine would share its first cores
            "ENABLE_CPU_PINNING": False,
        }
        self._levels = levels
        self._requests: dict[Shape | None, Any] = {}
        try:
            for shape in shapes:
                model = self._core.read_model(path)
                if shape:
                    model.reshape([1, *shape, 3])
                self._requests[shape] = self._request(model)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise EngineError(
                f"OpenVINO cannot load the archive's model ({reason}): export it again"
            ) from error

    def _request(self, model: Any) -> Any:
        return self._core.compile_model(model, "CPU", self._settings).create_infer_request()

    def _infer(self, request: Any, values: torch.Tensor) -> list[torch.Tensor]:
        """Run on ``values`` without a copy; the results share the request's buffers."""
        request.infer([self._tensor(values.numpy(), shared_memory=True)], share_outputs=True)
        return [torch.from_numpy(tensor.data) for tensor in request.output_tensors]

    def __call__(self, images: torch.Tensor) -> TrunkOutput:
        _, _, height, width = images.shape
        pixels = images.permute(0, 2, 3, 1).contiguous()  # no copy: the batch is channels_last
        shape = next((s for s in self._requests if s and s[0] >= height and s[1] >= width), None)
        if shape:
            pixels = torch.nn.functional.pad(pixels, (0, 0, 0, shape[1] - width, 0, shape[0] - height))
        outputs = self._infer(self._requests[shape], pixels)
        return as_trunk_output([output.permute(0, 3, 1, 2) for output in outputs], self._levels)

    def compile(
        self, layers: nn.Module, shape: tuple[int, int, int]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """As :class:`handler.model.engines.Engine` says."""
        model = from_torch(layers, (2, *shape))
        model.reshape([-1, *shape])
        request = self._request(model)
        return lambda pooled: self._infer(request, pooled)[0]
