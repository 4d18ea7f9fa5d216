"""The trunk in torch: norms folded, weights cast once, channels_last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from handler.model.engines import TrunkOutput
from handler.model.folding import fold_norms


class Trunk(nn.Module):
    """Backbone, FPN and RPN head of a Detectron2 ``GeneralizedRCNN`` as one module, with its norms folded.

    It shares its modules with ``model`` and changes them in place.
    """

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.backbone = fold_norms(model.backbone)
        self.rpn_head = model.proposal_generator.rpn_head
        self.rpn_in_features = list(model.proposal_generator.in_features)
        self.roi_in_features = list(model.roi_heads.box_in_features)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N, 3, H, W) to p2..p5, then logits of p2..p6, then deltas of p2..p6, as a flat tuple, which tracers need."""
        features = self.backbone(images)
        logits, deltas = self.rpn_head([features[name] for name in self.rpn_in_features])
        return (*(features[name] for name in self.roi_in_features), *logits, *deltas)


def as_trunk_output(outputs: list[torch.Tensor], levels: int) -> TrunkOutput:
    """Split :class:`Trunk`'s flat tuple; ``levels`` is the number of RPN levels."""
    return TrunkOutput(outputs[: -2 * levels], outputs[-2 * levels : -levels], outputs[-levels:])


class TorchEngine:
    """Runs on CPU and CUDA, in fp32, bf16 or fp16."""

    name = "torch"

    def __init__(self, trunk: Trunk, device: torch.device, dtype: torch.dtype) -> None:
        self._levels = len(trunk.rpn_in_features)
        self._device = device
        self.pooled_dtype = dtype
        self._trunk = self._arrange(trunk)

    def __call__(self, images: torch.Tensor) -> TrunkOutput:
        images = images.to(dtype=self.pooled_dtype, memory_format=torch.channels_last)
        return as_trunk_output(list(self._trunk(images)), self._levels)

    def compile(
        self, layers: nn.Module, shape: tuple[int, int, int]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """As :class:`handler.model.engines.Engine` says; ``layers`` are changed in place."""
        return self._arrange(layers)

    def _arrange(self, module: Any) -> Any:  # torch's types know memory_format from 2.12 on
        return module.to(device=self._device, dtype=self.pooled_dtype, memory_format=torch.channels_last)
