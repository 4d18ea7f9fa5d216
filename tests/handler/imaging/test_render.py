"""The three pictures, pixel by pixel where that can be said, and on the sizes at the ends."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from handler.imaging.masks import label_map
from handler.imaging.render import color, ink, label_font, overlay, render, splash
from handler.model import Detections
from tests.handler.toys import blob_detections


@pytest.fixture
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    return cv2.resize(
        rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC
    )


def decode(png: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """WCAG 2.1's contrast ratio."""

    def luminance(rgb: tuple[int, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_splash_keeps_the_instances_and_grays_the_rest(photo: np.ndarray) -> None:
    labels = label_map(blob_detections(4, 240, 320), 240, 320)
    picture = splash(photo, labels)
    np.testing.assert_array_equal(picture[labels > 0], photo[labels > 0])
    outside = picture[labels == 0]
    assert (outside == outside[:, :1]).all()
    np.testing.assert_array_equal(outside[:, 0], cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[labels == 0])


def test_overlay_paints_the_masks_and_leaves_the_rest(photo: np.ndarray) -> None:
    detections = blob_detections(1, 240, 320, seed=2)
    labels = label_map(detections, 240, 320)
    before = photo.copy()
    picture = overlay(photo, labels, detections, ["balloon"])
    np.testing.assert_array_equal(photo, before)  # the request's own picture is not drawn on
    inside = cv2.erode((labels > 0).astype(np.uint8), np.ones((9, 9))) > 0
    x0, y0, x1, y1 = detections.boxes[0].astype(int)
    away = np.ones((240, 320), bool)
    away[max(0, y0 - 25) : y1 + 25, max(0, x0 - 5) : x0 + 120] = False
    away[y0 - 3 : y1 + 3, x0 - 3 : x1 + 3] = False
    np.testing.assert_array_equal(picture[away], photo[away])
    expected = photo[inside] * 0.55 + np.array(color(0)) * 0.45
    assert np.abs(picture[inside] - expected).max() <= 1


def test_the_png_is_the_picture(photo: np.ndarray) -> None:
    detections = blob_detections(4, 240, 320)
    labels = label_map(detections, 240, 320)
    np.testing.assert_array_equal(decode(render("labels", photo, detections, ["balloon"])), labels)
    np.testing.assert_array_equal(
        decode(render("splash", photo, detections, ["balloon"])), splash(photo, labels)
    )
    np.testing.assert_array_equal(
        decode(render("overlay", photo, detections, ["balloon"])),
        overlay(photo, labels, detections, ["balloon"]),
    )


def test_labels_above_255_instances_are_16_bit(photo: np.ndarray) -> None:
    boxes = np.array(
        [[i % 20 * 16, i // 20 * 16, i % 20 * 16 + 16, i // 20 * 16 + 16] for i in range(300)], np.float32
    )
    full = np.ones((300, 28, 28), np.float32)
    detections = Detections(boxes, np.linspace(1, 0.5, 300, dtype=np.float32), np.zeros(300, np.int64), full)
    labels = decode(render("labels", photo, detections, ["balloon"]))
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) == set(range(1, 301))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (16, 400), (400, 16)])
@pytest.mark.parametrize("output", ["overlay", "splash", "labels"])
def test_the_smallest_pictures(size: tuple[int, int], output: str) -> None:
    image = np.zeros((*size, 3), np.uint8)
    picture = decode(
        render(output, image, blob_detections(5, *size), ["a class name that is longer than the picture"])
    )
    assert picture.shape[:2] == size


def test_text_can_be_read_on_every_color() -> None:
    for i in range(300):
        paper = {"black": (0, 0, 0), "white": (255, 255, 255)}[ink(color(i))]
        assert contrast(color(i), paper) > 4.5


def test_the_first_21_colors_differ() -> None:
    colors = [np.array(color(i)) for i in range(21)]
    for i, a in enumerate(colors):
        for b in colors[:i]:
            assert np.abs(a - b).sum() > 40


def test_the_font_has_more_than_english() -> None:
    """A letter that a font lacks is drawn as the same box as any other that it lacks."""
    missing = label_font(20).getmask("\U0001f9ff").getbbox(), bytes(label_font(20).getmask("\U0001f9ff"))
    for letter in "ößéñłЖλ":
        mask = label_font(20).getmask(letter)
        assert (mask.getbbox(), bytes(mask)) != missing
