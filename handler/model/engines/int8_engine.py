"""The trunk in 8-bit integers, in OpenVINO, at a few fixed shapes.

With dynamic shapes the quantized network crashed the process (OpenVINO 2026.4); with fixed shapes it did not. So it is
compiled once for each of a few buckets, and an image is padded to the smallest bucket that holds it.
"""

from __future__ import annotations

from pathlib import Path

import torch

from handler.model.engines import INT8_IR_NAME, TrunkOutput
from handler.model.engines.openvino_engine import as_torch, compile_settings, import_openvino, unreadable
from handler.model.engines.torch_engine import as_trunk_output

_ASPECT_RATIOS = (1.0, 4 / 3, 3 / 2)


def buckets(short_side: int, long_side: int, multiple: int) -> list[tuple[int, int]]:
    """The shapes (height, width), by area, that hold every resized photo.

    >>> buckets(800, 1333, 32)
    [(800, 800), (800, 1088), (1088, 800), (800, 1216), (1216, 800), (800, 1344), (1344, 800)]
    """

    def up(side: float) -> int:
        return -(-int(side + 0.5) // multiple) * multiple

    longs = {up(min(short_side * ratio, long_side)) for ratio in _ASPECT_RATIOS} | {up(long_side)}
    shapes = {shape for long in longs for shape in ((up(short_side), long), (long, up(short_side)))}
    return sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))


class Int8Engine:
    """One image at a time on the CPU.

    Args:
        folder: the unpacked archive.
        dtype: of the layers that are not quantized.
        threads: cores to use.
        levels: the number of RPN levels.
        shapes: the buckets; each takes about a second to compile.

    Raises:
        EngineError: the representation cannot be read or compiled.
    """

    name = "openvino"

    def __init__(
        self, folder: Path, dtype: torch.dtype, threads: int, *, levels: int, shapes: list[tuple[int, int]]
    ) -> None:
        ov = import_openvino()
        core = ov.Core()
        self._levels = levels
        self._tensor = ov.Tensor
        self._requests = {}
        try:
            for shape in shapes:
                model = core.read_model(folder / INT8_IR_NAME)
                model.reshape([1, *shape, 3])
                compiled = core.compile_model(model, "CPU", compile_settings(dtype, threads))
                self._requests[shape] = compiled.create_infer_request()
        except RuntimeError as error:
            raise unreadable(error) from error

    def __call__(self, images: torch.Tensor) -> TrunkOutput:
        _, _, height, width = images.shape
        shape = next(s for s in self._requests if s[0] >= height and s[1] >= width)
        pixels = torch.zeros(1, *shape, 3)
        pixels[:, :height, :width] = images.permute(0, 2, 3, 1)
        request = self._requests[shape]
        request.infer([self._tensor(pixels.numpy(), shared_memory=True)], share_outputs=True)
        return as_trunk_output([as_torch(tensor) for tensor in request.output_tensors], self._levels)
