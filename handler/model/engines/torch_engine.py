"""The trunk in torch: norms folded, weights cast once, channels_last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from handler.model.engines import TrunkOutput
from handler.model.engines.cuda_graphs import Graphs
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
    """Runs on CPU and CUDA, in fp32, bf16 or fp16.

    Args:
        buckets: (height, width), by area. If there are any, layers are replayed as CUDA graphs; images are padded to
            the first bucket that holds them, and pooled boxes to a power of two.
    """

    name = "torch"

    def __init__(
        self,
        trunk: Trunk,
        device: torch.device,
        dtype: torch.dtype,
        buckets: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._buckets = buckets
        self._levels = len(trunk.rpn_in_features)
        self._device = device
        self.pooled_dtype = dtype
        self._trunk = self._arrange(trunk)

    def __call__(self, images: torch.Tensor) -> TrunkOutput:
        images = images.to(dtype=self.pooled_dtype, memory_format=torch.channels_last)
        height, width = images.shape[2:]
        if bucket := next((b for b in self._buckets if b[0] >= height and b[1] >= width), None):
            images = nn.functional.pad(images, (0, bucket[1] - width, 0, bucket[0] - height))
        return as_trunk_output(list(self._trunk(images)), self._levels)

    def compile(
        self, layers: nn.Module, shape: tuple[int, int, int]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """As :class:`handler.model.engines.Engine` says; ``layers`` are changed in place."""
        arranged = self._arrange(layers)
        if not self._buckets:
            return arranged

        def padded(pooled: torch.Tensor) -> torch.Tensor:
            rows = len(pooled)
            more = (1 << (rows - 1).bit_length()) - rows
            return arranged(nn.functional.pad(pooled, (0, 0) * 3 + (0, more)))[:rows]

        return padded

    def _arrange(self, module: Any) -> Any:  # torch's types know memory_format from 2.12 on
        module = module.to(device=self._device, dtype=self.pooled_dtype, memory_format=torch.channels_last)
        return Graphs(module) if self._buckets else module
