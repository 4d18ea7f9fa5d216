"""ROI Align (He et al. 2017, https://arxiv.org/abs/1703.06870) of all levels of a pyramid together.

On a CPU it is ten times faster than torchvision's kernel, which runs on one core, one channel at a time, over planar
maps. But an output cell is only a weighted sum of a few feature vectors, the weights are a product of a vertical and a
horizontal part, and with channels_last maps a feature vector is one contiguous row. That is what ``embedding_bag``
computes, vectorized and on all cores: rows are feature cells, bags are output cells. A test compares it with
torchvision.

On a GPU torchvision's kernel is fast, but a call for each level needs to know how many boxes are of that level, for
which the host would have to wait. There the levels lie side by side in one map, and one call pools every box.
"""

from __future__ import annotations

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torchvision.ops import roi_align

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
        self._level = pooler.level_poolers[0]
        self._scales = torch.tensor([level.spatial_scale for level in pooler.level_poolers])
        self._fast = self._level.aligned and self._level.sampling_ratio == 0

    def prepare(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """The pyramid p2..p5, each (N, C, H, W), as :meth:`__call__` reads it; several calls may share it."""
        return features if self._on_cpu(features) else _side_by_side(features, self._scales)

    def __call__(self, features: list[torch.Tensor], rois: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool every box from the level that suits its size.

        Args:
            features: what :meth:`prepare` made of the pyramid.
            rois: (R, 5) fp32, on the CPU or beside the features: image index, XYXY in pixels of the resized image,
                within the image.

        Returns:
            Pooled boxes (R, size, size, C), in any order, and where each input box went, (R,) int64:
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
        return pooled, pool(features, rois, levels, pooled)

    def _on_cpu(self, features: list[torch.Tensor]) -> bool:
        return self._fast and features[0].device.type == "cpu"

    def _pool_by_torchvision(
        self, features: list[torch.Tensor], rois: torch.Tensor, levels: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """Fill ``pooled``; return where each box went."""
        everything, places = features
        scale, origin = places.to(rois.device, non_blocking=True)[levels].split([1, 4], dim=1)
        rois = torch.cat([rois[:, :1], rois[:, 1:] * scale + origin], dim=1)
        rois = rois.to(everything.device, non_blocking=True)
        level = self._level
        found = roi_align(everything, rois, self.size, 1.0, level.sampling_ratio, level.aligned)
        pooled.copy_(found.permute(0, 2, 3, 1))
        return torch.arange(len(rois), device=pooled.device)

    def _pool_by_embedding_bag(
        self, features: list[torch.Tensor], rois: torch.Tensor, levels: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """Fill ``pooled``; return where each box went."""
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
        return order.argsort()


def _side_by_side(features: list[torch.Tensor], scales: torch.Tensor) -> list[torch.Tensor]:
    """One map (N, C, H, W) of all levels, and for each level its scale and its place in the map: (levels, 5).

    The largest level is above, the others stand in a row below. Each has a border that repeats its outermost cells:
    torchvision reads no more than one cell beyond a map, and takes the nearest of the map there. In fp32, since
    torchvision rounds the boxes to the precision of the map: in fp16 by up to half a pixel.
    """
    first, second = features[:2]
    images, channels, height, width = first.shape
    height, width = (
        height + second.shape[2] + 4,
        max(width + 2, sum(each.shape[3] + 2 for each in features[1:])),
    )
    everything = first.new_zeros(images, channels, height, width, dtype=torch.float32)
    places, x, y = [], 0, 0
    for feature, scale in zip(features, scales.tolist(), strict=True):
        framed = torch.nn.functional.pad(feature, (1, 1, 1, 1), mode="replicate")
        everything[:, :, y : y + framed.shape[2], x : x + framed.shape[3]] = framed
        places.append([scale, x + 1, y + 1, x + 1, y + 1])
        x, y = (x + framed.shape[3], y) if y else (0, framed.shape[2])
    return [everything, torch.tensor(places, dtype=torch.float32)]


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
