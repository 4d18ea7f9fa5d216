"""Large photos and small objects: predict a photo in overlapping tiles, and join what a seam has cut.

A network sees a photo at a fixed size, so an object of 20 pixels in 40 megapixels is too small for it. In a tile it is
not. The tiles overlap (Akyon et al. 2022, "Slicing aided hyper inference"), so an object is found twice, or in pieces.
Two detections are the same object if their masks agree where both tiles look. Unlike the usual tests, IoU or the
intersection over the smaller area of whole masks, this also recognizes two halves that share only the overlap, and it
keeps a group of objects from swallowing its members.

The whole photo is predicted as well, for objects too large for a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from handler.imaging.masks import paste_mask
from handler.model import MAX_DETECTIONS, Detections, Wanted

OVERLAP = 0.2
"""Of neighboring tiles, as a share of their side. A smaller object is whole in at least one of them."""
MIN_AGREEMENT = 0.5
"""IoU of two masks where both tiles look, from which on they are the same object."""
GRID = 32
"""Points at which two masks are compared, along each axis."""
NEAR = 0.01
"""Share of a tile's side: a box that ends so near to the tile's edge may be cut off there."""


class Predictor(Protocol):
    """What the tiles need of :class:`handler.model.predictor.Predictor`."""

    def predict(
        self, images: Sequence[np.ndarray], wanted: Sequence[Wanted] | None = None
    ) -> list[Detections]: ...


@dataclass
class _Object:
    """The detections that are one object; ``whole`` if no edge of a tile cuts the first."""

    pieces: list[int]
    whole: bool
    score: float


def windows(height: int, width: int, side: int) -> np.ndarray:
    """The tiles of a photo: (N, 4) XYXY, spread evenly, all of one size, none beyond the photo.

    >>> windows(100, 180, 100)
    array([[  0,   0, 100, 100],
           [ 80,   0, 180, 100]])
    """

    def starts(length: int) -> np.ndarray:
        overlap = round(OVERLAP * side)
        count = 1 if length <= side else math.ceil((length - overlap) / (side - overlap))
        return np.linspace(0, max(length - side, 0), count).round().astype(int)

    corners = [(x, y) for y in starts(height) for x in starts(width)]
    return np.array([(x, y, x + min(side, width), y + min(side, height)) for x, y in corners])


def predict(
    predictor: Predictor, images: Sequence[np.ndarray], wanted: Sequence[Wanted], batch_size: int
) -> list[Detections]:
    """As ``predictor.predict``, but a photo that is larger than ``tiles`` of its ``wanted`` is predicted in tiles.

    Args:
        images: each (H, W, 3) uint8 RGB.
        batch_size: tiles per run of the network.
    """
    tiled = [
        i
        for i, (image, want) in enumerate(zip(images, wanted, strict=True))
        if want.tiles and max(image.shape[:2]) > want.tiles
    ]
    others = [i for i in range(len(images)) if i not in tiled]
    found: dict[int, Detections] = {}
    if others or not tiled:
        results = predictor.predict([images[i] for i in others], [wanted[i] for i in others])
        if not tiled:
            return results
        found = dict(zip(others, results, strict=True))
    for i in tiled:
        found[i] = _predict_tiles(predictor, images[i], wanted[i], batch_size)
    return [found[i] for i in range(len(images))]


def _predict_tiles(predictor: Predictor, image: np.ndarray, wanted: Wanted, batch_size: int) -> Detections:
    height, width = image.shape[:2]
    places = np.concatenate([[(0, 0, width, height)], windows(height, width, wanted.tiles)])
    every = replace(wanted, max_detections=MAX_DETECTIONS, masks=True)
    found: list[Detections] = []
    for start in range(0, len(places), batch_size):
        views = [image[y0:y1, x0:x1] for x0, y0, x1, y1 in places[start : start + batch_size]]
        found += predictor.predict(views, [every] * len(views))
    # an object no larger than the overlap is whole in a tile, where it is seen better
    sizes = (found[0].boxes[:, 2:] - found[0].boxes[:, :2]).max(axis=1, initial=0)
    found[0] = found[0][sizes > OVERLAP * wanted.tiles]
    return merge(found, places)


def merge(found: Sequence[Detections], places: np.ndarray) -> Detections:
    """Join the detections of several windows of one photo.

    Detections that no edge of a window cuts come first, by falling score; what is the same object as one of them is
    dropped. Pieces that match only each other become one instance, with all their masks and the best score.

    Args:
        found: of each window, in pixels of the window.
        places: (N, 4) XYXY, the windows in pixels of the photo; the first is the whole photo.

    Returns:
        The objects by falling score, in pixels of the photo.
    """
    window_of = np.repeat(np.arange(len(places)), [len(each) for each in found])
    offsets = np.tile(places[window_of, :2], 2).astype(np.float32)
    boxes = np.concatenate([each.boxes for each in found]) + offsets
    scores, class_ids, masks = (
        np.concatenate([getattr(each, name) for each in found]) for name in ("scores", "class_ids", "masks")
    )
    cut = _cut(boxes, places[window_of], places[0])
    objects: list[_Object] = []
    owner = np.full(len(boxes), -1)  # index into objects
    for i in np.lexsort((-scores, cut)):
        # both boxes reach into what both windows show
        shared = _intersect(places[window_of], places[window_of[i]])
        common = _intersect(shared, boxes[i])
        near = _has_area(common) & _has_area(_intersect(common, boxes))
        near &= (owner >= 0) & (class_ids == class_ids[i]) & (window_of != window_of[i])
        same = {
            owner[j]
            for j in np.flatnonzero(near)
            if _agreement(masks[i], boxes[i], masks[j], boxes[j], shared[j]) >= MIN_AGREEMENT
        }
        if any(objects[k].whole for k in same):
            continue
        if not same:
            owner[i] = len(objects)
            objects.append(_Object([i], not cut[i], scores[i]))
            continue
        first, *others = sorted(same)
        objects[first].pieces += [i, *(piece for k in others for piece in objects[k].pieces)]
        objects[first].score = max(scores[i], *(objects[k].score for k in same))
        owner[objects[first].pieces] = first
        for k in others:
            objects[k].pieces = []
    kept = sorted((each for each in objects if each.pieces), key=lambda each: -each.score)
    return _joined(kept, boxes, class_ids, masks)


def _joined(
    objects: Sequence[_Object], boxes: np.ndarray, class_ids: np.ndarray, masks: np.ndarray
) -> Detections:
    firsts = np.array([each.pieces[0] for each in objects], int)
    around = [[*boxes[each.pieces, :2].min(axis=0), *boxes[each.pieces, 2:].max(axis=0)] for each in objects]
    return Detections(
        np.array(around, np.float32).reshape(-1, 4),
        np.array([each.score for each in objects], np.float32),
        class_ids[firsts],
        masks[firsts],
        tuple((masks[each.pieces], boxes[each.pieces]) for each in objects),
    )


def _cut(boxes: np.ndarray, windows: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """(N,) bool, whether a box ends at an edge of its window that is not one of the photo."""
    near = NEAR * (windows[:, 2:] - windows[:, :2]).max(axis=1, keepdims=True)
    return np.asarray(((np.abs(boxes - windows) <= near) & (windows != photo)).any(axis=1))


def _intersect(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, 4), what ``other``, (4,) or (N, 4), leaves of (N, 4) boxes; without area where they do not meet."""
    return np.hstack([np.maximum(boxes[:, :2], other[..., :2]), np.minimum(boxes[:, 2:], other[..., 2:])])


def _has_area(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))


def _agreement(
    mask: np.ndarray, box: np.ndarray, other: np.ndarray, other_box: np.ndarray, shared: np.ndarray
) -> float:
    """IoU of two masks inside ``shared`` (4,), sampled on a grid over what their boxes reach of it."""
    low = np.maximum(np.minimum(box[:2], other_box[:2]), shared[:2])
    high = np.minimum(np.maximum(box[2:], other_box[2:]), shared[2:])
    scale = np.tile(GRID / (high - low), 2)
    seen = np.zeros((2, GRID, GRID), bool)
    for plane, each, place in zip(seen, (mask, other), (box, other_box), strict=True):
        crop = paste_mask(each, ((place - np.tile(low, 2)) * scale).astype(np.float32), GRID, GRID)
        plane[crop.window] = crop.bits
    union = np.count_nonzero(seen.any(axis=0))
    return np.count_nonzero(seen.all(axis=0)) / union if union else 0.0
