"""Region proposals from an engine's raw RPN outputs: Detectron2's, but only the best anchors are decoded.

Detectron2 decodes all ~200,000 anchors of an 800-pixel image and then keeps 1000 per level. The best are
known before decoding, so they are selected first, and the levels of all images are decoded together.
"""

from __future__ import annotations

import warnings

import torch
from detectron2.modeling.proposal_generator import RPN
from torch.nn.utils.rnn import pad_sequence

from handler.model.engines import TrunkOutput
from handler.model.nms import suppress, survivors

_CACHED_GRIDS = 8


class ProposalGenerator:
    """Wraps a Detectron2 ``RPN``: its anchors, its box transform and its test-time limits.

    Args:
        rpn: on the device of the trunk's outputs.
        on_gpu: suppress overlapping boxes in the way that suits a GPU, and return the same number of rows for every
            photo, so that the host need not wait to learn it; the proposals are the same.
    """

    def __init__(self, rpn: RPN, *, on_gpu: bool) -> None:
        self._rpn = rpn
        self._on_gpu = on_gpu
        self._anchors: dict[tuple, list[torch.Tensor]] = {}

    def __call__(self, trunk: TrunkOutput, limits: torch.Tensor) -> torch.Tensor:
        """Proposals of N images, at most ``RPN.POST_NMS_TOPK_TEST`` of each.

        Args:
            trunk: outputs for N images.
            limits: (N, 4) fp32 on the CPU: width, height, width, height of each image without its padding.

        Returns:
            (R, 5) fp32: image index, XYXY in pixels of the resized image; by image, the best first. On a GPU, images
            with fewer proposals are filled up with empty boxes (0, 0, 0, 0).
        """
        boxes, scores, counts = self._best_anchors(trunk)
        finite = boxes.isfinite().all(2) & scores.isfinite()
        boxes = boxes.clamp(min=0).minimum(limits.to(boxes.device, non_blocking=True)[:, None])
        valid = finite & (boxes[..., 2:] - boxes[..., :2] > self._rpn.min_box_size).all(2)
        boxes = boxes.masked_fill(~valid[..., None], 0)  # overlaps nothing
        most = self._rpn.post_nms_topk[False]
        if self._on_gpu:
            valid &= self._survivors(boxes, counts)
            boxes = boxes.masked_fill(~valid[..., None], 0)
        scores, order = scores.masked_fill(~valid, -torch.inf).sort(dim=1, descending=True, stable=True)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        if self._on_gpu:
            boxes = boxes[:, :most]
            image = torch.arange(len(boxes), device=boxes.device)[:, None, None].expand(-1, boxes.shape[1], 1)
            return torch.cat([image, boxes], dim=2).flatten(0, 1)
        levels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        kept = (scores > -torch.inf) & self._first_survivors(boxes, scores, levels[order])
        kept &= kept.cumsum(1) <= most
        image, index = kept.nonzero(as_tuple=True)
        return torch.cat([image[:, None], boxes[image, index]], dim=1)

    def _best_anchors(self, trunk: TrunkOutput) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """The best anchors of all levels, K in all: boxes (N, K, 4), logits (N, K), and how many are of each level."""
        scores, deltas, anchors = [], [], []
        grid = self._grid(trunk.logits)
        for logits, all_deltas, all_anchors in zip(trunk.logits, trunk.deltas, grid, strict=True):
            flat = logits.permute(0, 2, 3, 1).flatten(1)  # (N, Hi Wi A)
            best, index = flat.topk(min(self._rpn.pre_nms_topk[False], flat.shape[1]), dim=1)
            by_anchor = all_deltas.permute(0, 2, 3, 1).reshape(len(flat), -1, 4)
            scores.append(best)
            deltas.append(by_anchor.gather(1, index[..., None].expand(-1, -1, 4)))
            anchors.append(all_anchors[index])
        boxes = self._rpn.box2box_transform.apply_deltas(
            torch.cat(deltas, dim=1).float().flatten(0, 1), torch.cat(anchors, dim=1).flatten(0, 1)
        )
        all_scores = torch.cat(scores, dim=1).float()
        return boxes.view(*all_scores.shape, 4), all_scores, [level.shape[1] for level in scores]

    def _survivors(self, boxes: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Which boxes (N, K, 4) stay, (N, K) bool; each level is by falling score."""
        levels = [level.transpose(0, 1) for level in boxes.split(counts, dim=1)]
        groups = pad_sequence(levels).permute(2, 1, 0, 3)  # (N, levels, most of a level, 4)
        stay = survivors(groups.flatten(0, 1), self._rpn.nms_thresh).view(groups.shape[:3])
        return torch.cat([stay[:, level, :count] for level, count in enumerate(counts)], dim=1)

    def _first_survivors(
        self, boxes: torch.Tensor, scores: torch.Tensor, levels: torch.Tensor
    ) -> torch.Tensor:
        """Which boxes (N, K, 4), given by falling score, stay; boxes after the last one that is needed do not count.

        Whether a box stays depends on better boxes alone. So the first few are tried before all: suppression takes
        time by the square of their number.
        """
        images, every = scores.shape
        most = self._rpn.post_nms_topk[False]
        groups = levels + (levels.max() + 1) * torch.arange(images)[:, None]
        kept = torch.zeros(images, every, dtype=torch.bool)
        for tried in sorted({min(4 * most, every), every}):
            best, logits, rivals = (each[:, :tried].flatten(0, 1) for each in (boxes, scores, groups))
            stay = torch.zeros(images * tried, dtype=torch.bool)
            stay[suppress(best, logits, rivals, self._rpn.nms_thresh)] = True
            kept[:, :tried] = stay.view(images, tried)
            if bool((kept.sum(1) >= most).all()):
                break
        return kept

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
