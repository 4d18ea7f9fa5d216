"""finetune.data.masks: clipping, checking and encoding."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from finetune.data.masks import (
    box_and_area,
    check_counts,
    clean_polygon,
    clip_polygon,
    encode_mask,
    to_rle,
)

SQUARE = np.array([(2, 2), (8, 2), (8, 8), (2, 8)], dtype=float)


@pytest.mark.parametrize("shift", [(0, 0), (5, 0), (-5, 0), (0, 5), (5, 5), (-3, 4)])
def test_clipping_keeps_exactly_what_lies_inside(shift):
    clipped = clip_polygon(SQUARE + shift, 10, 10)
    width, height = (min(8 + each, 10) - max(2 + each, 0) for each in shift)
    assert cv2.contourArea(clipped.astype(np.float32)) == pytest.approx(width * height)
    assert clipped.min() >= 0
    assert clipped.max() <= 10
    if shift == (0, 0):
        assert (clipped == SQUARE).all()


def test_clipping_cuts_a_slanted_edge_where_it_crosses_the_border():
    clipped = clip_polygon(np.array([(5.0, 0.0), (15.0, 10.0), (5.0, 10.0)]), 10, 10)
    assert {tuple(point) for point in clipped.tolist()} == {(5, 0), (10, 5), (10, 10), (5, 10)}


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(1, 1), (2, 2), (2, 2), (1, 1)], "has 2 different points"),
        ([(1, 1), (2, 2), (3, 3)], "no area"),
        ([(11, 1), (15, 1), (15, 5)], "outside the image"),
        ([(1, 1), (2, float("nan")), (3, 1)], "infinite or no numbers"),
        ([(1, 1), (2, 1e300), (3, 1)], "infinite or no numbers"),
        ([1, 2, 3], "not numbers in pairs"),
        ("abc", "not numbers in pairs"),
        ([None, {}], "not numbers in pairs"),
    ],
)
def test_useless_polygons_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        clean_polygon(points, 10, 10)


def test_compressed_counts_are_checked_as_pycocotools_reads_them():
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(1, 60, 2)
        rle = encode_mask(rng.random((height, width)) < rng.random())
        assert check_counts(rle["counts"], height * width) == rle["counts"].encode()
        with pytest.raises(ValueError, match="do not unpack"):
            check_counts(rle["counts"], height * width + 1)


@pytest.mark.parametrize("counts", ["", "0\x00", "oooooooooo", "é", 5, None, "P" * 40, "~~~"])
def test_damaged_counts_are_refused(counts):
    with pytest.raises(ValueError, match="do not unpack"):
        to_rle({"size": [10, 10], "counts": counts}, 10, 10)


def test_uncompressed_rle_becomes_compressed():
    rle = to_rle({"size": [2, 3], "counts": [1, 2, 3]}, 3, 2)
    assert coco_mask.decode(rle).tolist() == [[0, 1, 0], [1, 0, 0]]
    for counts in ([1, 2], [1, 2, -3, 6], [1.5, 4.5], ["6"]):
        with pytest.raises(ValueError, match="do not add up"):
            to_rle({"size": [2, 3], "counts": counts}, 3, 2)


def test_box_and_area_agree_between_polygon_and_rle():
    mask = np.zeros((12, 10), dtype=bool)
    mask[3:9, 2:7] = True
    polygon = [[2.0, 3.0, 7.0, 3.0, 7.0, 9.0, 2.0, 9.0]]
    assert box_and_area(polygon, 10, 12) == box_and_area(encode_mask(mask), 10, 12) == ([2, 3, 5, 6], 30)
