"""Region proposals from an engine's raw RPN outputs: Detectron2's, but only the best anchors are decoded.

Detectron2 decodes all ~200,000 anchors of an 800-pixel image and then keeps 1000 per level. The best are
known before decoding, so they are selected first; clipping, NMS and the final cut are Detectron2's own code.
"""

from __future__ import annotations

import warnings

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.structures import Instances

from handler.model.engines import TrunkOutput

_CACHED_GRIDS = 8


class ProposalGenerator:
    """Wraps a Detectron2 ``RPN``: its anchors, its box transform and its test-time limits."""

    def __init__(self, rpn: RPN) -> None:
        self._rpn = rpn
        self._anchors: dict[tuple, list[torch.Tensor]] = {}

    def __call__(self, trunk: TrunkOutput, image_sizes: list[tuple[int, int]]) -> list[Instances]:
        """Proposals of each image, at most ``RPN.POST_NMS_TOPK_TEST``.

        Args:
            trunk: outputs for N images.
            image_sizes: (height, width) of each image without its padding, pixels.

        Returns:
            N ``Instances`` with ``proposal_boxes`` (XYXY, pixels of the resized image) and
            ``objectness_logits``, highest logit first.
        """
        rpn = self._rpn
        most = rpn.pre_nms_topk[False]
        boxes, scores = [], []
        for logits, deltas, anchors in zip(trunk.logits, trunk.deltas, self._grid(trunk.logits), strict=True):
            flat = logits.permute(0, 2, 3, 1).flatten(1).float()  # (N, Hi Wi A)
            level_scores, index = flat.topk(min(most, flat.shape[1]), dim=1)
            all_deltas = deltas.permute(0, 2, 3, 1).reshape(len(flat), -1, 4)
            level_deltas = all_deltas.gather(1, index[..., None].expand(-1, -1, 4)).float()
            decoded = rpn.box2box_transform.apply_deltas(level_deltas.flatten(0, 1), anchors[index.flatten()])
            boxes.append(decoded.view(*index.shape, 4))
            scores.append(level_scores)
        return find_top_rpn_proposals(
            boxes,
            scores,
            image_sizes,
            rpn.nms_thresh,
            most,
            rpn.post_nms_topk[False],
            rpn.min_box_size,
            training=False,
        )

    def _grid(self, logits: list[torch.Tensor]) -> list[torch.Tensor]:
        """Anchors of each level, (Hi Wi A, 4); cached for the last few sizes, since photos repeat them."""
        key = tuple(level.shape[-2:] for level in logits)
        if key not in self._anchors:
            if len(self._anchors) >= _CACHED_GRIDS:
                self._anchors.pop(next(iter(self._anchors)))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.meshgrid")  # Detectron2 calls it the old way
                self._anchors[key] = [level.tensor for level in self._rpn.anchor_generator(logits)]
        return self._anchors[key]
