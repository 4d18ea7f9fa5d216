"""The layers of the network behind one small interface, in torch or in OpenVINO.

An engine takes a batch of images and returns feature maps and the region proposal network's raw outputs, and it runs
the layers of the box head and the mask head. What lies between them (proposals, ROI Align, suppression) is the same
code for every engine.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import nn

from handler.errors import EngineError

ENGINES = ("auto", "torch", "openvino")
IR_NAME = "openvino/trunk.xml"
"""Where an archive keeps OpenVINO's intermediate representation of the trunk."""

INT8_IR_NAME = "openvino/trunk_int8.xml"
"""The same in 8 bits. ``maskrcnn export --data`` adds it where it keeps the AP and is faster."""


class TrunkOutput(NamedTuple):
    """What an engine returns for N images; all in channels_last memory, in the engine's precision or fp32.

    The tensors may share the engine's buffers: they are valid until its next call.
    """

    features: list[torch.Tensor]  # p2..p5, each (N, C, H/stride, W/stride)
    logits: list[torch.Tensor]  # p2..p6: objectness, each (N, A, Hi, Wi)
    deltas: list[torch.Tensor]  # p2..p6: box deltas, each (N, 4 A, Hi, Wi)


class Engine(Protocol):
    """Runs backbone, FPN and RPN head, and the layers of the heads."""

    name: str
    pooled_dtype: torch.dtype
    """What the layers of the heads take."""

    def __call__(self, images: torch.Tensor) -> TrunkOutput:
        """Normalised images (N, 3, H, W) fp32 on the engine's device, H and W multiples of 32."""
        ...

    def compile(
        self, layers: nn.Module, shape: tuple[int, int, int]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """Run ``layers``, which take pooled boxes (R, *shape), R > 0, channels last, and return one tensor.

        The result may share the engine's buffers: it is valid until the next call.
        """
        ...


def choose_engine(engine: str, precision: str, device: torch.device, folder: Path) -> str:
    """Turn ``auto | torch | openvino`` into a name: OpenVINO on a CPU when the archive carries its model.

    Args:
        precision: ``int8`` needs OpenVINO and an archive with an int8 model.
        folder: the unpacked archive.

    Raises:
        EngineError: unknown name, or OpenVINO was requested where it cannot run.
    """
    if engine not in ENGINES:
        raise EngineError(f"there is no engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if precision == "int8":
        if engine == "torch":
            raise EngineError("precision int8 needs engine openvino: choose that, or precision auto")
        if not (folder / INT8_IR_NAME).is_file():
            raise EngineError("the archive carries no int8 model: choose precision auto")
        engine = "openvino"
    if engine == "torch":
        return engine
    reason = _why_no_openvino(device, folder)
    if engine == "auto":
        return "torch" if reason else "openvino"
    if reason:
        raise EngineError(reason)
    return engine


def prefer_int8(precision: str, engine: str, device: torch.device, folder: Path) -> str:
    """Turn ``auto`` into ``int8`` where the archive carries that model and OpenVINO can run it."""
    possible = (folder / INT8_IR_NAME).is_file() and _why_no_openvino(device, folder) is None
    return "int8" if precision == "auto" and engine != "torch" and possible else precision


def _why_no_openvino(device: torch.device, folder: Path) -> str | None:
    if device.type != "cpu":
        return f"engine openvino runs on the CPU, not on {device}: choose engine auto or torch"
    if not (folder / IR_NAME).is_file():
        return (
            "the archive carries no OpenVINO model: export it with --engine openvino, or choose engine torch"
        )
    if find_spec("openvino") is None:
        return "openvino is not installed: install it, or choose engine auto or torch"
    return None
