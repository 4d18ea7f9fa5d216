"""Masks without full-size stacks: a mask is pasted inside its own box, written from that crop, and forgotten.

Detectron2's ``paste_masks_in_image`` makes an (N, H, W) array, 3.6 GB for 300 instances on 12 megapixels.
Here the largest thing is one crop in float32, and callers go through the instances one after another.

A crop is sampled exactly as ``paste_masks_in_image`` does: bilinear ``grid_sample`` with
``align_corners=False`` and zero padding, at pixel centres, threshold 0.5, in float32. Bilinear sampling on a
grid is separable: the mask is stretched along y once, and then each pixel column is a blend of two columns of
that.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from handler.model.detections import Detections

MASK_THRESHOLD = 0.5

POLYGON_TOLERANCE = 0.7
"""Pixels between a simplified outline and the exact one: half a pixel's diagonal smooths only the stairs."""


@dataclass(frozen=True)
class Crop:
    """The part of an image where a mask can be set.

    ``columns`` is (w, h) bool, transposed: COCO's RLE runs down the columns, so they lie contiguous in
    memory. ``x``, ``y`` is the crop's upper left pixel in the image.
    """

    columns: np.ndarray
    x: int
    y: int

    @property
    def bits(self) -> np.ndarray:
        """(h, w) bool, a view."""
        return self.columns.T

    @property
    def area(self) -> int:
        """Pixels set."""
        return int(np.count_nonzero(self.columns))

    @property
    def window(self) -> tuple[slice, slice]:
        """Where the crop lies: ``image[crop.window]`` has the shape of ``bits``."""
        return slice(self.y, self.y + self.columns.shape[1]), slice(self.x, self.x + self.columns.shape[0])


def paste_mask(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> Crop:
    """Paste one mask inside its own box.

    Args:
        mask: (M, M) float32, probabilities inside the box.
        box: (4,) float32, XYXY in pixels of the image; may reach over its edges.
        height, width: of the image.

    Returns:
        The crop; empty (0 × 0) for a box without area, outside the image or not finite.
    """
    x0, y0, x1, y1 = (np.float32(v) for v in box)
    nothing = Crop(np.zeros((0, 0), bool), 0, 0)
    if not np.isfinite(box).all():
        return nothing
    # No pixel whose centre lies outside the box can reach the threshold: with zero padding a sample there is
    # below 0.5.
    left, right = _clip(np.floor(x0), width), _clip(np.ceil(x1), width)
    top, bottom = _clip(np.floor(y0), height), _clip(np.ceil(y1), height)
    if not (x1 > x0 and y1 > y0 and right > left and bottom > top):
        return nothing
    padded = np.pad(mask.T, ((1, 2), (1, 2)))  # (x, y): cells -1, and M and M + 1 beyond the mask, are zero
    cell_y, upper, lower = _positions(top, bottom, y0, y1, mask.shape[0])
    cell_x, near, far = _positions(left, right, x0, x1, mask.shape[1])
    stretched = padded[:, cell_y] * upper + padded[:, cell_y + 1] * lower
    columns = np.empty((right - left, bottom - top), bool)
    # All pixel columns between the centres of the same two cells at a time. A matrix product would do as
    # well, but BLAS wakes a pool of threads for it, which stumbles over the network's and is slower in a busy
    # worker.
    ends = np.searchsorted(cell_x, np.arange(len(padded)), side="right")
    start = 0
    for cell, end in enumerate(ends):
        if end > start:
            rows = slice(start, end)
            blend = near[rows, None] * stretched[cell]
            blend += far[rows, None] * stretched[cell + 1]
            np.greater_equal(blend, MASK_THRESHOLD, out=columns[rows])
            start = end
    return Crop(columns, left, top)


def _clip(value: np.float32, limit: int) -> int:
    return int(min(max(float(value), 0.0), limit))


def _positions(
    start: int, stop: int, low: np.float32, high: np.float32, cells: int
) -> tuple[np.ndarray, ...]:
    """Where the pixels start..stop-1 lie along one axis of a mask whose box reaches from ``low`` to ``high``.

    Returns the index of the nearer cell before each pixel's centre, counted from the padding at -1, and the
    weights of that cell and of the next. The steps are those of Detectron2 and of PyTorch's ``grid_sample``,
    in their order and precision, so that the results round alike.
    """
    one, two = np.float32(1), np.float32(2)
    centre = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    normalised = (centre - low) / (high - low) * two - one
    position = ((normalised + one) * np.float32(cells) - one) / two
    position = np.clip(position, -one, np.float32(cells))  # one cell beyond the mask all is zero
    cell = np.floor(position)
    return cell.astype(np.intp) + 1, one - (position - cell), position - cell


def paste_masks(detections: Detections, height: int, width: int) -> Iterator[Crop]:
    """The crops of all instances, one at a time, in the order of the detections."""
    for mask, box in zip(detections.masks, detections.boxes, strict=True):
        yield paste_mask(mask, box, height, width)


def crop_to_rle(crop: Crop, height: int, width: int) -> dict:
    """Compressed COCO RLE of the full-size mask: ``{"size": [height, width], "counts": "…"}``.

    Decodes with ``pycocotools.mask.decode``. The runs are found in the crop and shifted to their places in
    the image, so the work grows with the crop and nothing of the image's size is made.
    """
    w, h = crop.columns.shape
    # One unset pixel under each column ends every run within its column; "edges" then alternate start, end,
    # start, …
    padded = np.zeros(w * (h + 1) + 1, bool)
    padded[1:].reshape(w, h + 1)[:, :h] = crop.columns
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    column, row = np.divmod(edges, h + 1)
    places = (crop.x + column) * height + crop.y + row
    # a run that reaches the image's lower edge goes on at the top of the next column: there end and start
    # cancel out
    joint = np.flatnonzero(places[1:] == places[:-1])
    places = np.delete(places, np.concatenate([joint, joint + 1]))
    counts = np.diff(places, prepend=0, append=height * width)
    if counts[-1] == 0:  # COCO writes no empty run at the end
        counts = counts[:-1]
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def crop_to_polygons(crop: Crop) -> list[list[float]]:
    """Outer outlines, one list ``[x1, y1, x2, y2, …]`` per separate part, in pixels of the image.

    Outlines run along the edges of pixels (a single pixel is a unit square), simplified by
    :data:`POLYGON_TOLERANCE`. Holes are filled: COCO's polygons cannot say them; use RLE where they matter.
    """
    if not crop.columns.any():
        return []
    # OpenCV's outlines run through pixel centres. On the mask doubled in size the outline's even and odd
    # coordinates tell the near from the far edge of a pixel: 2x → x, 2x + 1 → x + 1.
    doubled = cv2.resize(crop.bits.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for outline in outlines:
        exact = (outline + 1) // 2
        simple = cv2.approxPolyDP(exact, POLYGON_TOLERANCE, closed=True)
        if len(simple) < 4:  # a few pixels: nothing to simplify
            simple = cv2.approxPolyDP(exact, 0, closed=True)
        polygons.append((simple.reshape(-1, 2) + np.array([crop.x, crop.y])).reshape(-1).tolist())
    return polygons


def crop_to_png(crop: Crop, canvas: np.ndarray) -> str:
    """The full-size mask as a one-bit PNG in base64; white is the instance.

    ``canvas`` is (H, W) uint8, all zero, and is left so: one serves all instances of an image.
    """
    canvas[crop.window] = crop.bits
    canvas[crop.window] *= 255
    smallest = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
    png = encode_png(canvas, cv2.IMWRITE_PNG_BILEVEL, 1, *smallest)
    canvas[crop.window] = 0
    return base64.b64encode(png).decode("ascii")


def encode_png(pixels: np.ndarray, *settings: int) -> bytes:
    """A gray (H, W) uint8 or uint16, or a colour (H, W, 3) uint8 BGR picture as PNG.

    OpenCV's own settings are the quick ones: half the time of its compression level 1, at the same size.
    """
    done, png = cv2.imencode(".png", pixels, settings)
    if not done:
        raise ValueError(f"cannot write a PNG of shape {pixels.shape} and type {pixels.dtype}")
    return png.tobytes()


def label_map(detections: Detections, height: int, width: int) -> np.ndarray:
    """(H, W) uint8, or uint16 above 255 instances: 0 background, id + 1 an instance, better scores on top."""
    count = len(detections.boxes)
    labels = np.zeros((height, width), np.uint8 if count <= 255 else np.uint16)
    for i in reversed(range(count)):
        crop = paste_mask(detections.masks[i], detections.boxes[i], height, width)
        labels[crop.window][crop.bits] = i + 1
    return labels
