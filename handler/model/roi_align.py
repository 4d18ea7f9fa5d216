"""ROI Align (He et al. 2017, https://arxiv.org/abs/1703.06870) for CPUs, ten times faster.

torchvision's CPU kernel runs on one core, one channel at a time, over planar maps. But an output cell is only
a weighted sum of a few feature vectors, the weights are a product of a vertical and a horizontal part, and
with channels_last maps a feature vector is one contiguous row. That is what ``embedding_bag`` computes,
vectorized and on all cores: rows are feature cells, bags are output cells. A test compares it with torchvision.

On a GPU torchvision's own kernel is used.
"""

from __future__ import annotations

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.structures import Boxes

# Boxes are pooled in groups of similar sampling density; each box is padded to the density of its group.
_DENSITIES = torch.tensor([1, 2, 3, 4, 6, 9, 14, 22, 35, 56, 90, 2**20], dtype=torch.float32)


class RoiAlign:
    """Pools boxes from a feature pyramid as the given Detectron2 ``ROIPooler`` does.

    Any other pooler than Mask R-CNN's (``ROIAlignV2``, adaptive sampling) is left to torchvision.
    """

    def __init__(self, pooler: ROIPooler) -> None:
        self._pooler = pooler
        self.size = pooler.output_size[0]
        self._scales = torch.tensor([level.spatial_scale for level in pooler.level_poolers])
        self._fast = all(
            getattr(level, "aligned", False) and level.sampling_ratio == 0 for level in pooler.level_poolers
        )

    def __call__(
        self, features: list[torch.Tensor], boxes: list[Boxes], dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool every box of every image from the level that suits its size.

        Args:
            features: p2..p5, each (N, C, H, W), fastest in channels_last memory.
            boxes: one ``Boxes`` per image, XYXY in pixels of the resized image; R in all.
            dtype: of the result.

        Returns:
            Pooled boxes (R, C, size, size) in channels_last memory, sorted by level and density, and where
            each input box went, (R,) int64: ``pooled[where]`` has the order of the input. The caller restores that
            order where there is less data to move.
        """
        pooler = self._pooler
        rois = convert_boxes_to_pooler_format(boxes)  # (R, 5): image index, XYXY
        levels = assign_boxes_to_levels(
            boxes, pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
        )
        on_cpu = self._fast and rois.device.type == "cpu"
        key = levels * 1000 + (self._density(rois, levels) if on_cpu else 0)
        order = key.argsort(stable=True)
        rois, runs = rois[order], torch.unique_consecutive(key[order], return_counts=True)
        size, channels = self.size, features[0].shape[1]
        pooled = torch.empty(len(rois), size, size, channels, dtype=dtype, device=rois.device)
        begin = 0
        for level, count in zip((runs[0] // 1000).tolist(), runs[1].tolist(), strict=True):
            end, feature = begin + count, features[level]
            if on_cpu:
                pooled[begin:end] = _pool(feature, rois[begin:end], self._scales[level], size)
            else:
                # torchvision rounds boxes to the maps' precision: in fp16, by up to half a pixel
                pool = pooler.level_poolers[level]
                pooled[begin:end] = pool(feature.float().contiguous(), rois[begin:end]).permute(0, 2, 3, 1)
            begin = end
        return pooled.permute(0, 3, 1, 2), order.argsort()

    def _density(self, rois: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """A number below 1000 per box, the same for boxes with similar sample counts across and down."""
        cells_per_bin = (rois[:, 3:] - rois[:, 1:3]) * self._scales[levels, None] / self.size
        across, down = torch.bucketize(cells_per_bin, _DENSITIES).unbind(1)
        return across * len(_DENSITIES) + down


def _pool(feature: torch.Tensor, rois: torch.Tensor, scale: torch.Tensor, size: int) -> torch.Tensor:
    """Pool ``rois`` (r, 5) from one map (N, C, H, W): (r, size, size, C)."""
    height, width = feature.shape[-2:]
    table = feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1])  # (N H W, C), a view when channels_last
    start = rois[:, 1:3] * scale - 0.5  # x, y; half-pixel centres
    extent = (rois[:, 3:] * scale - 0.5) - start
    x, x_weight = _axis(start[:, 0], extent[:, 0], size, width)
    y, y_weight = _axis(start[:, 1], extent[:, 1], size, height)
    row = y * width + (rois[:, 0, None, None] * (height * width)).to(torch.int32)
    # (r, output row, output column, cells down, cells across)
    cells = row[:, :, None, :, None] + x[:, None, :, None, :]
    weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    bags = torch.arange(0, cells.numel(), cells.shape[-1] * cells.shape[-2], dtype=torch.int32)
    pooled = torch.nn.functional.embedding_bag(
        cells.view(-1), table, bags, mode="sum", per_sample_weights=weights.view(-1).to(table.dtype)
    )
    return pooled.view(-1, size, size, table.shape[1])


def _axis(
    start: torch.Tensor, extent: torch.Tensor, size: int, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which cells of one axis make up each output cell, and with what weight.

    Args:
        start, extent: (r,) in cells of the feature map.
        size: output cells per box.
        length: cells of the map along this axis.

    Returns:
        Cell numbers (r, size, K) int32 and weights (r, size, K) fp32. K is one more than the samples per
        output cell.
    """
    bin_size = extent / size
    count = bin_size.ceil()  # samples per output cell, chosen per box: about one per cell of the map
    sample = torch.arange(max(int(count.max()), 1), dtype=torch.float32)
    position = (
        start[:, None, None]
        + torch.arange(size, dtype=torch.float32)[:, None] * bin_size[:, None, None]
        + (sample + 0.5) * bin_size[:, None, None] / count.clamp(min=1)[:, None, None]
    )  # (r, size, samples)
    counts = (sample < count[:, None, None]) & (position >= -1) & (position <= length)
    share = counts / count.clamp(min=1)[:, None, None]
    # positions past the box's own last sample carry no weight: keep them near so that K stays small
    last = (count - 1).clamp(min=0)[:, None, None].long().expand(-1, size, 1)
    position = position.minimum(position.gather(2, last)).clamp(0, length - 1)
    low = position.floor().clamp(max=max(length - 2, 0))
    upper_weight = position - low
    first = low[:, :, :1]
    offset = (low - first).long()
    cells = int(offset.max()) + 2
    weights = torch.zeros(*first.shape[:2], cells)
    weights.scatter_add_(2, offset, share * (1 - upper_weight))
    weights.scatter_add_(2, offset + 1, share * upper_weight)
    numbers = (first + torch.arange(cells)).clamp(max=length - 1)  # padding repeats the last cell at weight 0
    return numbers.to(torch.int32), weights
