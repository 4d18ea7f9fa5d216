"""Masks one at a time: each is pasted inside its own box and encoded from that crop.

Detectron2's ``paste_masks_in_image`` makes an (N, H, W) array, 3.6 GB for 300 instances on 12 megapixels. Here the
largest array is one crop in float32, and callers iterate over the instances.

A crop is sampled exactly as in ``paste_masks_in_image``: bilinear ``grid_sample`` with ``align_corners=False`` and zero
padding, at pixel centers, threshold 0.5, in float32. Bilinear sampling on a grid is separable: the mask is stretched
along y once, and each pixel column is then a blend of two columns of the result.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from handler.model import Detections

MASK_THRESHOLD = 0.5

POLYGON_TOLERANCE = 0.7
"""Largest distance in pixels between a simplified outline and the exact one: half a diagonal smooths only the
stairs."""


@dataclass(frozen=True)
class Crop:
    """A mask inside its box.

    ``columns`` is (w, h) bool, transposed: COCO's RLE runs down the columns, so they are contiguous in memory.
    ``x``, ``y`` is the crop's upper left pixel in the image.
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
        """The crop's place: ``image[crop.window]`` has the shape of ``bits``."""
        return slice(self.y, self.y + self.columns.shape[1]), slice(self.x, self.x + self.columns.shape[0])


def paste_mask(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> Crop:
    """Paste one mask inside its own box.

    Args:
        mask: (M, M) float32, probabilities inside the box.
        box: (4,) float32, XYXY in pixels of the image; may extend past its edges.
        height, width: of the image.

    Returns:
        The crop; empty (0 × 0) for a box that has no area, lies outside the image or is not finite.
    """
    x0, y0, x1, y1 = (np.float32(v) for v in box)
    nothing = Crop(np.zeros((0, 0), bool), 0, 0)
    if not np.isfinite(box).all():
        return nothing
    # a pixel whose center is outside the box cannot reach the threshold: with zero padding its sample is below 0.5
    left, right = _clip(np.floor(x0), width), _clip(np.ceil(x1), width)
    top, bottom = _clip(np.floor(y0), height), _clip(np.ceil(y1), height)
    if not (x1 > x0 and y1 > y0 and right > left and bottom > top):
        return nothing
    padded = np.pad(mask.T, ((1, 2), (1, 2)))  # (x, y): zero at cells -1, M and M + 1
    cell_y, upper, lower = _positions(top, bottom, y0, y1, mask.shape[0])
    cell_x, near, far = _positions(left, right, x0, x1, mask.shape[1])
    stretched = padded[:, cell_y] * upper + padded[:, cell_y + 1] * lower
    columns = np.empty((right - left, bottom - top), bool)
    # All pixel columns between the centers of the same two cells at a time. A matrix product would do as well, but BLAS
    # starts a thread pool for it, which competes with the network's and is slower in a busy worker.
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
    """Positions of the pixels start..stop-1 along one axis of a mask whose box spans ``low`` to ``high``.

    Returns the index of the cell before each pixel's center, counted from the padding at -1, and the weights of that
    cell and of the next. The steps are those of Detectron2 and of PyTorch's ``grid_sample``, in the same order and
    precision, so that results round alike.
    """
    one, two = np.float32(1), np.float32(2)
    center = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    normalized = (center - low) / (high - low) * two - one
    position = ((normalized + one) * np.float32(cells) - one) / two
    position = np.clip(position, -one, np.float32(cells))  # everything is zero from one cell past the mask
    cell = np.floor(position)
    return cell.astype(np.intp) + 1, one - (position - cell), position - cell


def paste_instance(detections: Detections, index: int, height: int, width: int) -> Crop:
    """The crop of one instance; that of one in pieces is where at least one of their masks is."""
    if detections.pieces is None:
        return paste_mask(detections.masks[index], detections.boxes[index], height, width)
    pieces = list(zip(*detections.pieces[index], strict=True))
    if len(pieces) == 1:
        return paste_mask(*pieces[0], height, width)
    x0, y0, x1, y1 = detections.boxes[index]
    left, right = _clip(np.floor(x0), width), _clip(np.ceil(x1), width)
    top, bottom = _clip(np.floor(y0), height), _clip(np.ceil(y1), height)
    columns = np.zeros((right - left, bottom - top), bool)
    for mask, box in pieces:
        crop = paste_mask(mask, box, height, width)
        inner = columns[crop.x - left :, crop.y - top :][: crop.columns.shape[0], : crop.columns.shape[1]]
        inner |= crop.columns
    return Crop(columns, left, top)


def paste_masks(detections: Detections, height: int, width: int) -> Iterator[Crop]:
    """The crops of all instances, one at a time, in the order of the detections."""
    for index in range(len(detections)):
        yield paste_instance(detections, index, height, width)


def crop_to_rle(crop: Crop, height: int, width: int) -> dict:
    """Compressed COCO RLE of the full-size mask: ``{"size": [height, width], "counts": "…"}``.

    Decodes with ``pycocotools.mask.decode``. Runs are found in the crop and shifted to their places in the image, so
    the work depends on the crop's size and nothing of the image's size is allocated.
    """
    w, h = crop.columns.shape
    # One unset pixel below each column ends every run within its column; "edges" then alternate start, end, start, …
    padded = np.zeros(w * (h + 1) + 1, bool)
    padded[1:].reshape(w, h + 1)[:, :h] = crop.columns
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    column, row = np.divmod(edges, h + 1)
    places = (crop.x + column) * height + crop.y + row
    # a run that reaches the image's lower edge continues at the top of the next column: end and start cancel out
    joint = np.flatnonzero(places[1:] == places[:-1])
    places = np.delete(places, np.concatenate([joint, joint + 1]))
    counts = np.diff(places, prepend=0, append=height * width)
    if counts[-1] == 0:  # COCO omits an empty last run
        counts = counts[:-1]
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def crop_to_polygons(crop: Crop) -> list[list[float]]:
    """Outer outlines, one list ``[x1, y1, x2, y2, …]`` per separate part, in pixels of the image.

    Outlines follow pixel edges (a single pixel is a unit square), simplified by :data:`POLYGON_TOLERANCE`. Holes are
    filled, since COCO's polygons cannot express them; use RLE where they matter.
    """
    if not crop.columns.any():
        return []
    # OpenCV's outlines run through pixel centers. On the mask doubled in size, even and odd coordinates tell the
    # near edge of a pixel from the far one: 2x → x, 2x + 1 → x + 1.
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

    ``canvas`` is (H, W) uint8, all zero, and is zero again afterwards, so one serves all instances of an image.
    """
    canvas[crop.window] = crop.bits
    canvas[crop.window] *= 255
    smallest = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
    png = encode_png(canvas, cv2.IMWRITE_PNG_BILEVEL, 1, *smallest)
    canvas[crop.window] = 0
    return base64.b64encode(png).decode("ascii")


def encode_png(pixels: np.ndarray, *settings: int) -> bytes:
    """A gray (H, W) uint8 or uint16, or a color (H, W, 3) uint8 BGR image, as PNG.

    OpenCV's defaults are fast: half the time of its compression level 1, at the same size.
    """
    done, png = cv2.imencode(".png", pixels, settings)
    if not done:
        raise ValueError(f"cannot write a PNG of shape {pixels.shape} and type {pixels.dtype}")
    return png.tobytes()


def label_map(detections: Detections, height: int, width: int) -> np.ndarray:
    """(H, W) uint8, or uint16 above 255 instances: 0 is background, id + 1 an instance; better scores on top."""
    count = len(detections.boxes)
    labels = np.zeros((height, width), np.uint8 if count <= 255 else np.uint16)
    for i in reversed(range(count)):
        crop = paste_instance(detections, i, height, width)
        labels[crop.window][crop.bits] = i + 1
    return labels
