"""Crops against Detectron2's own pasting, and every way of writing them."""

from __future__ import annotations

import base64
import json
import time

import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as coco_mask

from handler.imaging.masks import (
    crop_to_png,
    crop_to_polygons,
    crop_to_rle,
    label_map,
    paste_mask,
    paste_masks,
)
from handler.model import Detections
from tests.handler.toys import blob_detections


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.logical_or(a, b).sum()
    return 1.0 if union == 0 else np.logical_and(a, b).sum() / union


def full_size(crop, height: int, width: int) -> np.ndarray:
    full = np.zeros((height, width), bool)
    full[crop.window] = crop.bits
    return full


@pytest.mark.parametrize(("height", "width"), [(480, 640), (97, 61), (1536, 2048), (8, 9)])
def test_crops_equal_detectron2s_pasting(height: int, width: int) -> None:
    detections = blob_detections(30, height, width, seed=height)
    expected = paste_masks_in_image(
        torch.from_numpy(detections.masks), torch.from_numpy(detections.boxes), (height, width)
    ).numpy()
    ours = np.stack([full_size(crop, height, width) for crop in paste_masks(detections, height, width)])
    assert expected.any()
    # samples are summed in another order: one that lies on the threshold may fall on the other side
    assert np.mean([iou(a, b) for a, b in zip(ours, expected, strict=True)]) > 0.9999
    assert (ours != expected).sum() <= 1e-6 * ours.size + 1


def test_noise_masks_equal_too() -> None:
    """Masks that cross the threshold everywhere, in boxes that reach over the image's edges."""
    rng = np.random.default_rng(0)
    masks = rng.random((20, 28, 28), dtype=np.float32)
    corner = rng.uniform(-20, 150, (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.3, 120, (20, 2))], axis=1).astype(np.float32)
    expected = paste_masks_in_image(torch.from_numpy(masks), torch.from_numpy(boxes), (160, 200)).numpy()
    for mask, box, full in zip(masks, boxes, expected, strict=True):
        assert (full_size(paste_mask(mask, box, 160, 200), 160, 200) != full).sum() <= 1


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 9), (9, 5, 5, 9), (500, 5, 520, 9), (-9, -9, -1, -1), (np.nan, 0, 5, 5), (0, 0, np.inf, 5)],
    ids=["no width", "turned over", "right of the image", "left above", "nan", "inf"],
)
def test_a_box_without_pixels_gives_an_empty_mask(box: tuple[float, ...]) -> None:
    crop = paste_mask(np.ones((28, 28), np.float32), np.array(box, np.float32), 100, 100)
    rle = crop_to_rle(crop, 100, 100)
    assert crop.area == 0
    assert coco_mask.area(rle) == 0
    assert crop_to_polygons(crop) == []


@pytest.mark.parametrize("seed", range(6))
def test_rle_equals_pycocotools_byte_for_byte(seed: int) -> None:
    """Also where runs go on from one column to the next: noise in boxes as high as the image."""
    rng = np.random.default_rng(seed)
    height, width = (40, 50) if seed % 2 else (1, 30)
    masks = (rng.random((10, 28, 28)) ** (0.3 if seed < 3 else 2)).astype(np.float32)
    boxes = np.array(
        [[0, 0, 50, 40], [-3, -5, 60, 50], [10, 0, 12, 40], [0, 7, 50, 9], [49, 0, 50, 40]] * 2, np.float32
    )
    for mask, box in zip(masks, boxes, strict=True):
        crop = paste_mask(mask, box, height, width)
        expected = coco_mask.encode(np.asfortranarray(full_size(crop, height, width), dtype=np.uint8))
        rle = crop_to_rle(crop, height, width)
        assert rle == {"size": [height, width], "counts": expected["counts"].decode()}
        assert crop.area == coco_mask.area(expected)


def test_a_full_and_an_empty_mask() -> None:
    for value in (0.0, 1.0):
        crop = paste_mask(np.full((28, 28), value, np.float32), np.array([0, 0, 30, 20], np.float32), 20, 30)
        decoded = coco_mask.decode(crop_to_rle(crop, 20, 30))
        assert (decoded == value).all()


def test_polygons_lie_on_the_mask() -> None:
    height, width = 300, 400
    detections = blob_detections(20, height, width, seed=1)
    for crop in paste_masks(detections, height, width):
        polygons = crop_to_polygons(crop)
        decoded = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        filled = np.zeros((height, width), np.uint8)  # the mask without its holes
        contours, _ = cv2.findContours(
            full_size(crop, height, width).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
        assert iou(decoded, filled) > (0.98 if crop.area > 2000 else 0.9)
        assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons)


def test_one_pixel_is_a_unit_square() -> None:
    crop = paste_mask(np.ones((28, 28), np.float32), np.array([7, 4, 8, 5], np.float32), 20, 20)
    (polygon,) = crop_to_polygons(crop)
    assert sorted(zip(polygon[::2], polygon[1::2], strict=True)) == [(7, 4), (7, 5), (8, 4), (8, 5)]


def test_png_masks_are_full_size_and_leave_the_canvas_clean() -> None:
    height, width = 120, 170
    detections = blob_detections(5, height, width, seed=2)
    canvas = np.zeros((height, width), np.uint8)
    for crop in paste_masks(detections, height, width):
        png = base64.b64decode(crop_to_png(crop, canvas))
        decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(decoded == 255, full_size(crop, height, width))
        assert not canvas.any()


def test_label_map_puts_the_better_score_on_top() -> None:
    whole = np.ones((2, 28, 28), np.float32)
    boxes = np.array([[10, 10, 20, 20], [0, 0, 30, 30]], np.float32)
    detections = Detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64), whole)
    labels = label_map(detections, 40, 40)
    assert labels.dtype == np.uint8
    assert labels[15, 15] == 1
    assert labels[5, 5] == 2
    assert labels[35, 35] == 0


def test_label_map_of_300_instances_has_16_bits() -> None:
    detections = blob_detections(300, 64, 64, seed=3)
    assert label_map(detections, 64, 64).dtype == np.uint16


def test_encoding_is_quick_and_small() -> None:
    """The numbers promised: at most 1 ms an object and 20 kB for 8 objects on 2048 × 1536."""
    height, width = 1536, 2048
    detections = blob_detections(8, height, width, seed=4)

    def encode() -> list[dict]:
        return [crop_to_rle(crop, height, width) for crop in paste_masks(detections, height, width)]

    seconds = []
    for _ in range(7):
        start = time.thread_time()  # not of the clock on the wall: other programs may use this machine
        rles = encode()
        seconds.append(time.thread_time() - start)
    print(f"{min(seconds) / 8 * 1e3:.2f} ms an object, {len(json.dumps(rles))} bytes")
    assert len(json.dumps(rles)) < 20_000
    assert min(seconds) / 8 < 0.002  # twice the promise, for slower machines
