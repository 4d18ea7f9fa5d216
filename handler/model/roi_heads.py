"""Box head and mask head of a Detectron2 ``StandardROIHeads``, arranged for inference.

The layers, the score threshold, NMS and the choice of the class's mask are Detectron2's. What differs: ROI
Align (:mod:`handler.model.roi_align`), weights cast once, channels_last throughout, boxes and scores always in
fp32.
"""

from __future__ import annotations

import math

import torch
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, StandardROIHeads
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference
from detectron2.structures import Instances
from torch import nn

from handler.model.roi_align import RoiAlign


class RoiHeads:
    """From proposals to detections, and from detections to masks."""

    def __init__(self, roi_heads: StandardROIHeads, device: torch.device, dtype: torch.dtype) -> None:
        layout = {"device": device, "dtype": dtype, "memory_format": torch.channels_last}
        self._dtype = dtype
        self._box_align = RoiAlign(roi_heads.box_pooler)
        self._mask_align = RoiAlign(roi_heads.mask_pooler)
        self._box_head = roi_heads.box_head.to(**layout)
        self._mask_head = roi_heads.mask_head.to(**layout)
        self._predictor = roi_heads.box_predictor.to(device=device, dtype=torch.float32)
        layers = [m for m in self._mask_head.modules() if isinstance(m, nn.ConvTranspose2d)]
        self._mask_upsampling = math.prod(layer.stride[0] for layer in layers)
        _take_channels_last(self._box_head, roi_heads.box_pooler.output_size[0])

    def detect(self, features: list[torch.Tensor], proposals: list[Instances]) -> list[Instances]:
        """Detections of N images, without masks.

        Args:
            features: p2..p5, each (N, C, H, W).
            proposals: N ``Instances`` with ``proposal_boxes``.

        Returns:
            N ``Instances`` by falling score with ``pred_boxes`` (XYXY, pixels of the resized image),
            ``scores`` and ``pred_classes``.
        """
        x, where = self._box_align(features, [p.proposal_boxes for p in proposals], self._dtype)
        for conv in self._box_head.conv_norm_relus:
            x = conv(x)
        x = x.permute(0, 2, 3, 1).flatten(1)
        for fc in self._box_head.fcs:
            x = fc(x).relu_()
        detections, _ = self._predictor.inference(self._predictor(x[where].float()), proposals)
        return detections

    def add_masks(
        self, features: list[torch.Tensor], detections: list[Instances], wanted: list[bool]
    ) -> None:
        """Give each detection ``pred_masks`` (n, 1, M, M), probabilities in fp32; M is 28 by default.

        Args:
            features: p2..p5, each (N, C, H, W).
            detections: N ``Instances`` with ``pred_boxes`` and ``pred_classes``.
            wanted: per image; False gives masks of zeros without computing any.
        """
        side = self._mask_align.size * self._mask_upsampling
        for instances in detections:
            instances.pred_masks = features[0].new_zeros(len(instances), 1, side, side, dtype=torch.float32)
        chosen = [d for d, want in zip(detections, wanted, strict=True) if want and len(d)]
        if not chosen:
            return
        boxes = [
            d.pred_boxes if want else d.pred_boxes[:0] for d, want in zip(detections, wanted, strict=True)
        ]
        x, where = self._mask_align(features, boxes, self._dtype)
        mask_rcnn_inference(self._mask_head.layers(x)[where].float(), chosen)


def _take_channels_last(box_head: FastRCNNConvFCHead, pooled_side: int) -> None:
    """Reorder the first fully connected layer's columns from (C, H, W) to (H, W, C), in place.

    The pooled boxes then need no transposition, which costs milliseconds for a thousand boxes.
    """
    fc = box_head.fcs[0]
    columns = fc.weight.detach().view(fc.out_features, -1, pooled_side**2).permute(0, 2, 1).flatten(1)
    fc.weight = nn.Parameter(columns.contiguous(), requires_grad=False)
