"""Whether two predictors found the same."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

from handler.imaging.masks import crop_to_rle, paste_masks
from handler.model import Detections


def assert_equal(found: Detections, expected: Detections) -> None:
    """Equal but for the order of additions."""
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.1)
    np.testing.assert_allclose(found.masks, expected.masks, atol=0.02)


def matched_iou(found: Detections, expected: Detections, size: tuple[int, ...]) -> float:
    """Mean IoU of each of the better half of the expected masks with the best of those found.

    Raises:
        AssertionError: it is below 0.8.
    """
    if not len(expected):
        return 1.0
    assert len(found), "nothing was found"
    better = max(1, len(expected) // 2)
    height, width = size[0], size[1]
    ours, theirs = (
        [crop_to_rle(crop, height, width) for crop in paste_masks(each, height, width)]
        for each in (found, expected)
    )
    mean = float(coco_mask.iou(theirs[:better], ours, [0] * len(ours)).max(axis=1).mean())
    assert mean >= 0.8, f"the masks overlap by {mean:.2f} only"
    return round(mean, 4)
