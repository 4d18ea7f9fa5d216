"""Polygons and masks of one object, in the form that COCO files hold.

A *segmentation* is a list of polygons, each ``[x0, y0, x1, y1, …]`` in pixels (continuous coordinates: the
first pixel spans 0..1), or a compressed RLE ``{"size": [height, width], "counts": str}``.
"""

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

MAX_COORDINATE = 1e9  # pixels; keeps the arithmetic of clipping from overflowing

Segmentation = list[list[float]] | dict[str, Any]


def clip_polygon(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Cut a polygon at the edges of the image (Sutherland & Hodgman 1974).

    Args:
        points: (N, 2) x and y in pixels.

    Returns:
        (M, 2) float64 inside 0..width, 0..height, without repeated neighbours; M is 0 if nothing is left.
    """
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        inside = sign * (points[:, axis] - limit) >= 0
        if inside.all():
            continue
        before, crosses = np.roll(points, 1, axis=0), inside != np.roll(inside, 1)
        step = points - before
        share = np.divide(limit - before[:, axis], step[:, axis], where=crosses, out=np.zeros(len(points)))
        crossing = before + share[:, None] * step
        crossing[:, axis] = limit
        # each point follows the place where the edge that leads to it crosses the border
        points = np.stack([crossing, points], axis=1)[np.stack([crosses, inside], axis=1)]
    return _without_repeats(points)


def _without_repeats(points: np.ndarray) -> np.ndarray:
    """Drop points that equal the one before them (and a first one that equals the last)."""
    return points[np.any(points != np.roll(points, 1, axis=0), axis=1)]


def clean_polygon(points: Any, width: int, height: int) -> list[float]:
    """Check one polygon and clip it to the image.

    Args:
        points: (N, 2) x and y in pixels, anything that numpy takes.

    Returns:
        The flat list ``[x0, y0, x1, y1, …]``, rounded to 1/100 pixel.

    Raises:
        ValueError: what is wrong with it, as the end of a sentence that begins with the polygon's name.
    """
    try:
        array = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise ValueError("has coordinates that are not numbers in pairs") from None
    if not (np.abs(array) < MAX_COORDINATE).all():  # not a number is not less either
        raise ValueError("has coordinates that are infinite or no numbers")
    array = _without_repeats(array)
    if len(array) < 3:
        raise ValueError(f"has {len(array)} different points and needs at least 3")
    clipped = np.round(clip_polygon(array, width, height), 2)
    if len(clipped) < 3:
        raise ValueError(f"lies outside the image ({width} x {height})")
    if cv2.contourArea(clipped.astype(np.float32)) < 0.5:
        raise ValueError("has no area inside the image")
    return clipped.ravel().tolist()


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed COCO RLE of a (H, W) boolean mask, its counts as text so that it fits into JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def to_mask(segmentation: Segmentation, width: int, height: int) -> np.ndarray:
    """The (H, W) bool mask of polygons or of an RLE of either kind.

    Raises:
        ValueError: the RLE does not describe a mask of this size.
    """
    return coco_mask.decode(to_rle(segmentation, width, height)).astype(bool)


def crop(mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    """The left column, the top row and the content of the box around a mask that is not empty."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, mask[y : y + height, x : x + width]


def single_polygon(segmentation: Segmentation, width: int, height: int) -> np.ndarray:
    """One polygon (N, 2) of an object, for formats without holes and parts.

    Holes and parts are joined by bridges of no width, which the even-odd rule of filling ignores.
    """
    if isinstance(segmentation, list) and len(segmentation) == 1:
        return np.reshape(segmentation[0], (-1, 2))
    mask = to_mask(segmentation, width, height).astype(np.uint8)
    # At twice the size an outline runs a quarter of a pixel inside the edges, so filling it restores every pixel.
    contours, _ = cv2.findContours(mask.repeat(2, 0).repeat(2, 1), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [ring.reshape(-1, 2) / 2 + 0.25 for ring in contours]
    rings.sort(key=lambda ring: -len(ring))
    joined = rings[0]
    for ring in rings[1:]:
        distance = ((joined[:, None] - ring[None]) ** 2).sum(axis=2)
        i, j = (int(n) for n in np.unravel_index(int(distance.argmin()), distance.shape))
        joined = np.concatenate([joined[: i + 1], ring[j:], ring[: j + 1], joined[i:]])
    return joined


def to_rle(segmentation: Segmentation, width: int, height: int) -> dict[str, Any]:
    """Compressed COCO RLE of polygons or of an RLE of either kind.

    Raises:
        ValueError: the RLE does not describe a mask of this size.
    """
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    try:
        size, counts = [int(n) for n in segmentation["size"]], segmentation["counts"]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("is neither a list of polygons nor an RLE with size and counts") from None
    if size != [height, width]:
        listed = " x ".join(map(str, size[::-1]))
        raise ValueError(f"has an RLE of {listed} pixels but the image is {width} x {height}")
    if isinstance(counts, list):
        if not all(isinstance(n, int) and n >= 0 for n in counts) or sum(counts) != height * width:
            raise ValueError("has RLE counts that do not add up to the pixels of the image")
        return coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
    return {"size": size, "counts": check_counts(counts, height * width)}


def check_counts(counts: Any, pixels: int) -> bytes:
    """Check that compressed RLE text unpacks to this number of pixels; pycocotools trusts it and may crash.

    The text holds run lengths in groups of 5 bits, lowest first, from the fourth on as the difference to the
    run before the last (pycocotools, common/maskApi.c, ``rleFrString``).

    Raises:
        ValueError: it does not.
    """
    broken = ValueError("has compressed RLE counts that do not unpack to the pixels of the image")
    if not isinstance(counts, str | bytes):
        raise broken
    text = counts if isinstance(counts, bytes) else counts.encode("ascii", "replace")
    runs: list[int] = []
    value = shift = 0
    for byte in text:
        group = byte - 48
        if not 0 <= group < 64 or shift > 30:
            raise broken
        value |= (group & 0x1F) << shift
        shift += 5
        if not group & 0x20:  # the last group of a run; its highest bit is the sign
            value -= (group & 0x10) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or min(runs, default=-1) < 0 or sum(runs) != pixels:
        raise broken
    return text


def box_and_area(segmentation: Segmentation, width: int, height: int) -> tuple[list[float], float]:
    """The box (XYWH, pixels) and area (pixels of the drawn mask) of a segmentation, as in COCO files."""
    rle = to_rle(segmentation, width, height)
    area = float(coco_mask.area(rle))
    if isinstance(segmentation, dict):
        return [float(value) for value in coco_mask.toBbox(rle)], area
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return [round(float(value), 2) for value in (x0, y0, x1 - x0, y1 - y0)], area
