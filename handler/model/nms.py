"""Greedy non-maximum suppression of a whole batch: on the CPU torchvision's, on a GPU without its serial part."""

from __future__ import annotations

import torch
from torchvision.ops import batched_nms

_ROUNDS = 8
"""Rounds between two looks at the result, each of which the GPU has to wait for."""


def suppress(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Indices of the boxes that no better box of their group overlaps, by falling score.

    In fp64: torchvision moves each group to a place of its own, which in fp32 rounds the coordinates.

    Args:
        boxes: (K, 4) XYXY, finite.
        scores: (K,).
        groups: (K,) int64; boxes of different groups do not compete.
        threshold: the worse of two boxes is dropped where their IoU is larger.
    """
    return batched_nms(boxes.double(), scores.double(), groups, threshold)


def survivors(boxes: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which boxes stay, (G, K) bool, in G groups of K boxes (G, K, 4), each group by falling score.

    torchvision's CUDA kernel goes through the boxes that stay one by one. Here every box is asked at once whether one
    that stays overlaps it, until the answers no longer change; the only set that asks for no change is the greedy
    one (Zheng et al. 2021, Cluster-NMS, https://arxiv.org/abs/2005.03572). It takes as many rounds as the longest chain
    of boxes in which each suppresses the next, about ten.
    """

    def common_side(axis: int) -> torch.Tensor:
        """(G, K, K); computed in place, as these are the largest tensors of a batch."""
        first, last = boxes[..., axis], boxes[..., axis + 2]
        inner = torch.minimum(last[:, :, None], last[:, None])
        return inner.sub_(torch.maximum(first[:, :, None], first[:, None])).clamp_(min=0)

    intersection = common_side(0).mul_(common_side(1))
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    iou = intersection / (area[:, :, None] + area[:, None]).sub_(intersection)
    overlaps = (iou > threshold).triu(1).to(boxes.dtype)  # [g, i, j]: i is better than j and overlaps it
    ones = torch.ones_like(area)[:, None]
    stays = ones
    while True:
        for _ in range(_ROUNDS):
            before = stays  # 1 less the number of boxes that overlap it and stay: 1 for none, else 0
            stays = torch.baddbmm(ones, before, overlaps, alpha=-1).clamp_(min=0)
        if torch.equal(stays, before):
            return stays[:, 0] > 0
