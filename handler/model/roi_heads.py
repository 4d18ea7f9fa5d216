"""Box head and mask head of a Detectron2 ``StandardROIHeads``, arranged for inference.

The layers, their order and their limits are Detectron2's. What differs: the engine runs the layers, ROI Align is
:mod:`handler.model.roi_align`'s, channels come last, boxes and scores are always in fp32, and the images of a batch go
through each step together. What follows the box head works on a few dozen boxes: on the CPU, as a kernel launch for
each step would take longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from torch import nn

from handler.model import MAX_DETECTIONS
from handler.model.engines import Engine
from handler.model.nms import suppress
from handler.model.roi_align import RoiAlign


@dataclass(frozen=True)
class Found:
    """D instances in one image by falling score, on the CPU.

    Attributes:
        boxes: (D, 4) fp32, XYXY in pixels of the resized image.
        scores: (D,) fp32.
        class_ids: (D,) int64.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    class_ids: torch.Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: torch.Tensor) -> Found:
        """The instances at ``index``, (K,) int64."""
        return Found(self.boxes[index], self.scores[index], self.class_ids[index])


class RoiHeads:
    """From proposals to instances, and from instances to masks."""

    def __init__(self, model: GeneralizedRCNN, engine: Engine, device: torch.device) -> None:
        heads = model.roi_heads
        self._box_align = RoiAlign(heads.box_pooler, engine.pooled_dtype)
        self._mask_align = RoiAlign(heads.mask_pooler, engine.pooled_dtype)
        box_side, mask_side = self._box_align.size, self._mask_align.size
        channels = model.backbone.output_shape()[heads.box_in_features[0]].channels
        box_layers, mask_layers = BoxLayers(heads.box_head, box_side), MaskLayers(heads.mask_head)
        self._box_layers = engine.compile(box_layers, (box_side, box_side, channels))
        self._mask_layers = engine.compile(mask_layers, (mask_side, mask_side, channels))
        self._mask_side = mask_side * mask_layers.upsampling
        self._predictor = heads.box_predictor.to(device=device, dtype=torch.float32)

    def prepare(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """The pyramid p2..p5, each (N, C, H, W), as both heads read it."""
        return self._box_align.prepare(features)

    def detect(self, features: list[torch.Tensor], rois: torch.Tensor, limits: torch.Tensor) -> list[Found]:
        """The instances in N images, without masks.

        Args:
            features: what :meth:`prepare` returned.
            rois: (R, 5) fp32, proposals: image index, XYXY in pixels of the resized image; empty boxes find nothing.
            limits: (N, 4) fp32 on the CPU: width, height, width, height of each image without its padding.
        """
        candidates = self._candidates(features, rois) if len(rois) else torch.empty(0, 7)
        candidates = candidates[candidates.isfinite().all(1)]
        image, class_ids = candidates[:, 0].long(), candidates[:, 6].long()
        boxes = candidates[:, 1:5].clamp(min=0).minimum(limits[image])
        everything = Found(boxes, candidates[:, 5], class_ids)
        groups = image * self._predictor.num_classes + class_ids
        kept = suppress(boxes, everything.scores, groups, self._predictor.test_nms_thresh)
        return [everything[kept[image[kept] == i][:MAX_DETECTIONS]] for i in range(len(limits))]

    def _candidates(self, features: list[torch.Tensor], rois: torch.Tensor) -> torch.Tensor:
        """Boxes above the score threshold, on the CPU: (K, 7) of image index, XYXY, score and class."""
        predictor = self._predictor
        pooled, where = self._box_align(features, rois)
        outputs = predictor(self._box_layers(pooled)[where].float())
        (scores,) = predictor.predict_probs(outputs, [rois])
        filled = (rois[:, 3:] > rois[:, 1:3]).all(1, keepdim=True)
        row, class_ids = (filled & (scores[:, :-1] > predictor.test_score_thresh)).nonzero(as_tuple=True)
        deltas = outputs[1].view(len(rois), -1, 4)  # one box for all classes, or one each
        deltas = deltas[row, class_ids if deltas.shape[1] > 1 else 0]
        columns = (deltas, rois[row], scores[row, class_ids, None], class_ids[:, None])
        deltas, image, boxes, rest = torch.cat(columns, dim=1).cpu().split([4, 1, 4, 2], dim=1)
        return torch.cat([image, predictor.box2box_transform.apply_deltas(deltas, boxes), rest], dim=1)

    def masks(
        self, features: list[torch.Tensor], found: list[Found], wanted: list[bool]
    ) -> list[torch.Tensor]:
        """Masks of the instances in N images: (D, M, M) probabilities in fp32, on the CPU; M is 28 by default.

        Args:
            features: what :meth:`prepare` returned.
            wanted: per image; False gives masks of zeros without computing any.
        """
        masks = [torch.zeros(len(each), self._mask_side, self._mask_side) for each in found]
        chosen = [i for i, mask in enumerate(masks) if wanted[i] and len(mask)]
        if chosen:
            rois = [torch.nn.functional.pad(found[i].boxes, (1, 0), value=i) for i in chosen]
            pooled, where = self._mask_align(features, torch.cat(rois))
            logits = self._mask_layers(pooled)
            class_ids = torch.cat([found[i].class_ids for i in chosen]).to(logits.device, non_blocking=True)
            probabilities = logits[where, class_ids if logits.shape[1] > 1 else 0].float().sigmoid().cpu()
            for i, part in zip(chosen, probabilities.split([len(each) for each in rois]), strict=True):
                masks[i] = part
        return masks


class BoxLayers(nn.Module):
    """A box head without its predictor: pooled boxes (R, S, S, C) to (R, F).

    The first fully connected layer's columns are reordered from (C, S, S) to (S, S, C), in place: the pooled boxes then
    need no transposition, which costs milliseconds for a thousand boxes.
    """

    def __init__(self, box_head: FastRCNNConvFCHead, side: int) -> None:
        super().__init__()
        self.convs, self.fcs = nn.Sequential(*box_head.conv_norm_relus), nn.Sequential(*box_head.fcs)
        fc = box_head.fcs[0]
        columns = fc.weight.detach().view(fc.out_features, -1, side**2).permute(0, 2, 1).flatten(1)
        fc.weight = nn.Parameter(columns.contiguous(), requires_grad=False)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        x = self.convs(pooled.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1)
        for fc in self.fcs:
            x = fc(x).relu()
        return x


class MaskLayers(nn.Module):
    """A mask head: pooled boxes (R, S, S, C) to logits (R, classes or 1, M, M); M is S times ``upsampling``."""

    def __init__(self, mask_head: BaseMaskRCNNHead) -> None:
        super().__init__()
        self.head = mask_head
        layers = [module for module in mask_head.modules() if isinstance(module, nn.ConvTranspose2d)]
        self.upsampling = math.prod(layer.stride[0] for layer in layers)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head.layers(pooled.permute(0, 3, 1, 2))
        return logits
