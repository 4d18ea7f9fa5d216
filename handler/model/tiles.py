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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from handler.api.errors import Unprocessable
from handler.imaging.masks import MASK_THRESHOLD
from handler.model import MAX_DETECTIONS, MAX_INSTANCES, Detections, Wanted

OVERLAP = 0.2
"""Of neighboring tiles, as a share of their side. A smaller object is whole in at least one of them."""
MIN_AGREEMENT = 0.5
"""IoU of two masks where both windows look, from which on they are the same object; for a piece and a whole, the share
of the piece."""
SAMPLES = 32
"""By which two masks are compared, along each axis."""
NEAR = 0.01
"""Share of a window's side: a box that ends so near to the window's edge may be cut off there."""

Predict = Callable[[Sequence[np.ndarray], Sequence[Wanted]], list[Detections]]


@dataclass
class _Object:
    """Indices of the detections that are one object; ``whole`` if no edge of a window cuts the first."""

    pieces: list[int]
    whole: bool


def windows(height: int, width: int, side: int) -> np.ndarray:
    """The tiles of a photo: (N, 4) XYXY, spread evenly, all of one size, none beyond the photo.

    >>> windows(100, 180, 100).tolist()
    [[0, 0, 100, 100], [80, 0, 180, 100]]
    """

    def starts(length: int) -> np.ndarray:
        overlap = round(OVERLAP * side)
        count = 1 if length <= side else math.ceil((length - overlap) / (side - overlap))
        return np.linspace(0, max(length - side, 0), count).round().astype(int)

    corners = [(x, y) for y in starts(height) for x in starts(width)]
    return np.array([(x, y, x + min(side, width), y + min(side, height)) for x, y in corners])


def check_number(photo: np.ndarray, side: int, most: int) -> None:
    """Refuse a photo (H, W, 3) with more tiles of ``side`` pixels than ``most``; 0 is no tiles.

    Raises:
        RequestError: 422, ``too_many_tiles``.
    """
    height, width = photo.shape[:2]
    count = len(windows(height, width, side)) if side else 0
    if count > most:
        raise Unprocessable(
            "too_many_tiles",
            f"The image has {count:,} tiles of {side} pixels, and this server predicts at most {most}; ask for "
            "larger tiles.",
            "tiles",
        )


def predict(
    predict: Predict, images: Sequence[np.ndarray], wanted: Sequence[Wanted], batch_size: int
) -> list[Detections]:
    """Detect objects as ``predict`` does, in tiles where a photo is larger than the ``tiles`` of its ``wanted``.

    Args:
        predict: a predictor's method.
        images: each (H, W, 3) uint8 RGB.
        batch_size: tiles per run of the network.
    """
    tiled = [
        bool(want.tiles) and max(image.shape[:2]) > want.tiles
        for image, want in zip(images, wanted, strict=True)
    ]
    if not any(tiled):
        return predict(images, wanted)
    whole = [i for i, in_tiles in enumerate(tiled) if not in_tiles]
    found = iter(predict([images[i] for i in whole], [wanted[i] for i in whole]) if whole else ())
    return [
        _predict_tiles(predict, image, want, batch_size) if in_tiles else next(found)
        for image, want, in_tiles in zip(images, wanted, tiled, strict=True)
    ]


def _predict_tiles(predict: Predict, image: np.ndarray, wanted: Wanted, batch_size: int) -> Detections:
    height, width = image.shape[:2]
    places = np.concatenate([[(0, 0, width, height)], windows(height, width, wanted.tiles)])
    every = replace(wanted, max_detections=MAX_DETECTIONS, masks=True)
    found: list[Detections] = []
    for start in range(0, len(places), batch_size):
        views = [image[y0:y1, x0:x1] for x0, y0, x1, y1 in places[start : start + batch_size]]
        found += predict(views, [every] * len(views))
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
    scores = np.concatenate([each.scores for each in found])
    class_ids = np.concatenate([each.class_ids for each in found])
    masks = [mask for each in found for mask in each.masks]  # not copied: there may be tens of thousands
    rivals = [np.flatnonzero(np.isin(window_of, _meeting(places, window))) for window in range(len(places))]
    cut = _cut(boxes, places[window_of], places[0])
    owner = np.full(len(boxes), -1)
    objects: list[_Object] = []
    # the best are enough: an object is found in four tiles at most, but for the whole photo
    best = np.argsort(-scores, kind="stable")[: 4 * MAX_INSTANCES]
    for i in best[np.argsort(cut[best], kind="stable")]:
        others = rivals[window_of[i]]
        others = others[(owner[others] >= 0) & (class_ids[others] == class_ids[i])]
        shared = _intersect(places[window_of[others]], places[window_of[i]])
        mine, theirs = _intersect(shared, boxes[i]), _intersect(shared, boxes[others])
        smaller = np.minimum(_area(mine), _area(theirs))
        near = _area(_intersect(mine, theirs)) > MIN_AGREEMENT / 2 * smaller  # else their masks cannot agree
        same = sorted(
            {
                owner[j]
                for j, window in zip(others[near], shared[near], strict=True)
                if _agree([masks[i], masks[j]], boxes[[i, j]], window, piece=cut[i] and not cut[j])
            }
        )
        if any(objects[k].whole for k in same):
            continue
        joined = _Object([i, *(piece for k in same for piece in objects[k].pieces)], not cut[i])
        for k in same:
            objects[k].pieces = []
        owner[joined.pieces] = len(objects)
        objects.append(joined)
    return _detections([each.pieces for each in objects if each.pieces], boxes, scores, class_ids, masks)


def _detections(
    objects: list[list[int]],
    boxes: np.ndarray,
    scores: np.ndarray,
    class_ids: np.ndarray,
    masks: Sequence[np.ndarray],
) -> Detections:
    objects.sort(key=lambda pieces: -scores[pieces].max())
    around = [[*boxes[pieces, :2].min(axis=0), *boxes[pieces, 2:].max(axis=0)] for pieces in objects]
    return Detections(
        np.array(around, np.float32).reshape(-1, 4),
        np.array([scores[pieces].max() for pieces in objects], np.float32),
        class_ids[np.array([pieces[0] for pieces in objects], int)],
        np.zeros((len(objects), 0, 0), np.float32),
        tuple((np.array([masks[i] for i in pieces]), boxes[pieces]) for pieces in objects),
    )


def _meeting(places: np.ndarray, window: int) -> np.ndarray:
    """Indices of the other windows that overlap a window."""
    meets = _area(_intersect(places, places[window])) > 0
    meets[window] = False
    return np.flatnonzero(meets)


def _cut(boxes: np.ndarray, windows: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """(N,) bool, whether a box ends at an edge of its window that is not one of the photo."""
    near = NEAR * (windows[:, 2:] - windows[:, :2]).max(axis=1, keepdims=True)
    return np.asarray(((np.abs(boxes - windows) <= near) & (windows != photo)).any(axis=1))


def _intersect(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, 4), what ``other``, (4,) or (N, 4), leaves of (N, 4) boxes."""
    return np.hstack([np.maximum(boxes[:, :2], other[..., :2]), np.minimum(boxes[:, 2:], other[..., 2:])])


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1))


def _agree(masks: Sequence[np.ndarray], boxes: np.ndarray, shared: np.ndarray, *, piece: bool) -> bool:
    """Whether two masks agree inside ``shared`` (4,), by samples spread over what their boxes (2, 4) reach of it.

    With ``piece``, most of the first has to lie in the second, which may be far larger and its mask as much coarser.
    """
    low = np.maximum(boxes[:, :2].min(axis=0), shared[:2])
    step = (np.minimum(boxes[:, 2:].max(axis=0), shared[2:]) - low) / SAMPLES
    first, second = (_sample(mask, box, low, step) for mask, box in zip(masks, boxes, strict=True))
    common = np.count_nonzero(first & second)
    return bool(common and common >= MIN_AGREEMENT * np.count_nonzero(first if piece else first | second))


def _sample(mask: np.ndarray, box: np.ndarray, low: np.ndarray, step: np.ndarray) -> np.ndarray:
    """(SAMPLES, SAMPLES) bool of a mask (M, M) in its box: at the centers of cells of ``step`` (2,) from ``low`` on."""
    cells = len(mask) / (box[2:] - box[:2])
    matrix = np.column_stack([np.diag(step * cells), (low + step / 2 - box[:2]) * cells - 0.5])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask, matrix, (SAMPLES, SAMPLES), flags=flags) >= MASK_THRESHOLD)
