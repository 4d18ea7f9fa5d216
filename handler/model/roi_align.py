"""ROI Align (He et al. 2017, https://arxiv.org/abs/1703.06870) for CPUs, ten times faster.

torchvision's CPU kernel runs on one core, one channel at a time, over planar maps. But an output cell is only
a weighted sum of a few feature vectors, the weights are a product of a vertical and a horizontal part, and
with channels_last maps a feature vector is one contiguous row. That is what ``embedding_bag`` computes,
vectorized and on all cores: rows are feature cells, bags are output cells. A test compares it with torchvision.

On a GPU torchvision's own kernel is used.
"""

from __future__ import annotations

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes

# Boxes are pooled in groups of similar sampling density; each box is padded to the density of its group. Powers of
# two: more groups would read less padding, but cost more in calls.
_DENSITIES = [1, 2, 4, 8, 16, 32, 64, 2**20]


class RoiAlign:
    """Pools boxes from a feature pyramid as the given Detectron2 ``ROIPooler`` does.

    Any other pooler than Mask R-CNN's (``ROIAlignV2``, adaptive sampling) is left to torchvision.

    Args:
        pooler: Detectron2's.
        dtype: of the pooled boxes.
    """

    def __init__(self, pooler: ROIPooler, dtype: torch.dtype) -> None:
        self._pooler = pooler
        self._dtype = dtype
        self.size = pooler.output_size[0]
        self._scales = torch.tensor([level.spatial_scale for level in pooler.level_poolers])
        self._fast = all(
            getattr(level, "aligned", False) and level.sampling_ratio == 0 for level in pooler.level_poolers
        )

    def prepare(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """The pyramid p2..p5, each (N, C, H, W), as :meth:`__call__` reads it; several calls may share it.

        torchvision wants planar maps, and it rounds boxes to the maps' precision: in fp16 by up to half a pixel.
        """
        if self._on_cpu(features):
            return features
        return [feature.float().contiguous() for feature in features]

    def __call__(self, features: list[torch.Tensor], rois: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool every box from the level that suits its size.

        Args:
            features: what :meth:`prepare` made of the pyramid.
            rois: (R, 5) fp32, on the CPU or beside the features: image index, XYXY in pixels of the resized image.

        Returns:
            Pooled boxes (R, size, size, C), sorted by level and density, and where each input box went, (R,) int64:
            ``pooled[where]`` has the order of the input. The caller restores that order where there is less data to
            move.
        """
        pooler = self._pooler
        levels = assign_boxes_to_levels(
            [Boxes(rois[:, 1:])],
            pooler.min_level,
            pooler.max_level,
            pooler.canonical_box_size,
            pooler.canonical_level,
        )
        channels, device = features[0].shape[1], features[0].device
        pooled = torch.empty(len(rois), self.size, self.size, channels, dtype=self._dtype, device=device)
        pool = self._pool_by_embedding_bag if self._on_cpu(features) else self._pool_by_torchvision
        return pooled, pool(features, rois, levels, pooled).argsort()

    def _on_cpu(self, features: list[torch.Tensor]) -> bool:
        return self._fast and features[0].device.type == "cpu"

    def _pool_by_torchvision(
        self, features: list[torch.Tensor], rois: torch.Tensor, levels: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """Fill ``pooled``; return the order of the boxes in it."""
        order = levels.argsort(stable=True)
        counts = (levels[:, None] == torch.arange(len(features), device=levels.device)).sum(0).tolist()
        rois, order = (each.to(pooled.device, non_blocking=True) for each in (rois[order], order))
        runs = zip(rois.split(counts), pooled.split(counts), strict=True)
        for feature, pool, (boxes, out) in zip(features, self._pooler.level_poolers, runs, strict=True):
            if len(boxes):
                out.copy_(pool(feature, boxes).permute(0, 2, 3, 1))
        return order

    def _pool_by_embedding_bag(
        self, features: list[torch.Tensor], rois: torch.Tensor, levels: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """Fill ``pooled``; return the order of the boxes in it."""
        scale = self._scales[levels, None]
        start = rois[:, 1:3] * scale - 0.5  # x, y; half-pixel centers
        extent = (rois[:, 3:] * scale - 0.5) - start
        density = torch.bucketize(extent / self.size, torch.tensor(_DENSITIES, dtype=torch.float32))
        key = (levels * len(_DENSITIES) + density[:, 0]) * len(_DENSITIES) + density[:, 1]
        key, order = key.sort(stable=True)
        shapes = torch.tensor([feature.shape[-2:] for feature in features])[levels]  # (R, 2): height, width
        x, x_weight = _axis(start[order, 0], extent[order, 0], self.size, shapes[order, 1])
        y, y_weight = _axis(start[order, 1], extent[order, 1], self.size, shapes[order, 0])
        image = (rois[:, 0] * shapes.prod(1)).to(torch.int32)
        row = y * shapes[order, 1, None, None].to(torch.int32) + image[order, None, None]

        keys, counts = torch.unique_consecutive(key, return_counts=True)
        begin = 0
        for number, count in zip(keys.tolist(), counts.tolist(), strict=True):
            number, down = divmod(number, len(_DENSITIES))
            level, across = divmod(number, len(_DENSITIES))
            run = slice(begin, begin := begin + count)
            # the samples of one output cell touch at most one cell more than there are samples
            high, wide = slice(_DENSITIES[down] + 1), slice(_DENSITIES[across] + 1)
            pooled[run] = _weighted_sums(
                features[level],
                # (r, output row, output column, cells down, cells across)
                row[run, :, None, high, None] + x[run, None, :, None, wide],
                y_weight[run, :, None, high, None] * x_weight[run, None, :, None, wide],
            )
        return order


def _weighted_sums(feature: torch.Tensor, cells: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums over the last two axes of ``cells``, numbers of cells of one map (N, C, H, W): (r, size, size, C)."""
    table = feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1])  # (N H W, C), a view when channels_last
    bags = torch.arange(0, cells.numel(), cells.shape[-1] * cells.shape[-2], dtype=torch.int32)
    sums = torch.nn.functional.embedding_bag(
        cells.view(-1), table, bags, mode="sum", per_sample_weights=weights.view(-1).to(table.dtype)
    )
    return sums.view(*cells.shape[:3], -1)


def _axis(
    start: torch.Tensor, extent: torch.Tensor, size: int, length: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which cells of one axis make up each output cell, and with what weight.

    Args:
        start, extent: (R,) in cells of the box's feature map.
        size: output cells per box.
        length: (R,) int64, cells of that map along this axis.

    Returns:
        Cell numbers (R, size, K) int32 and weights (R, size, K) fp32. K is one more than the samples per
        output cell.
    """
    start, extent, length = (each[:, None, None] for each in (start, extent, length))
    bin_size = extent / size
    count = bin_size.ceil()  # samples per output cell, chosen per box: about one per cell of the map
    samples = max(int(count.max()), 1) if len(count) else 1
    sample = torch.arange(samples, dtype=torch.float32)
    position = (
        start
        + torch.arange(size, dtype=torch.float32)[:, None] * bin_size
        + (sample + 0.5) * bin_size / count.clamp(min=1)
    )  # (R, size, samples)
    counts = (sample < count) & (position >= -1) & (position <= length)
    share = counts / count.clamp(min=1)
    # positions past the box's own last sample carry no weight: keep them near, so that no cell is far from the first
    last = (count - 1).clamp(min=0).long().expand(-1, size, 1)
    position = position.minimum(position.gather(2, last)).clamp(min=0).minimum(length - 1)
    low = position.floor().minimum((length - 2).clamp(min=0))
    first = low[:, :, :1]
    low = low.minimum(first + count.clamp(min=1) - 1)  # a rounded-up position may be one cell further
    upper_weight = position - low
    offset = (low - first).long()
    weights = torch.zeros(*first.shape[:2], samples + 1)
    weights.scatter_add_(2, offset, share * (1 - upper_weight))
    weights.scatter_add_(2, offset + 1, share * upper_weight)
    numbers = (first + torch.arange(samples + 1)).minimum(
        length - 1
    )  # padding repeats the last cell at weight 0
    return numbers.to(torch.int32), weights
