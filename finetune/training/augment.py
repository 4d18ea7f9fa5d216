"""Augmentation for small data sets: large-scale jitter, color jitter and copy-paste.

A photo and its annotations become a :class:`Sample`. Every function takes its random generator as an argument, so the
same generator state always gives the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

# An instance of which less than this remains visible after cropping or pasting is dropped: too little to learn from.
MIN_VISIBLE_FRACTION = 0.1
MIN_VISIBLE_PIXELS = 16
MEAN_COLOR = (104, 116, 124)  # Detectron2's PIXEL_MEAN, BGR: becomes zero when the network normalizes


@dataclass(frozen=True)
class Sample:
    """An image and its instances.

    image: (H, W, 3) uint8, BGR. masks: (N, H, W) bool. class_ids: (N,) int64.
    """

    image: np.ndarray
    masks: np.ndarray
    class_ids: np.ndarray


def segmentation_to_mask(segmentation: Any, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rasterize a COCO segmentation through an affine map.

    Args:
        segmentation: polygons ``[[x0, y0, x1, y1, …], …]`` or an RLE dict, in pixels of the stored photo.
        matrix: (2, 3), from photo pixels to output pixels.
        size: (height, width) of the output.

    Returns:
        (height, width) bool.
    """
    height, width = size
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        mask = coco_mask.decode(segmentation)
        # in OpenCV pixel centers lie at 0, 1, …; in our coordinates at 0.5, 1.5, …
        matrix = matrix.copy()
        matrix[:, 2] += 0.5 * matrix[:, :2].sum(1) - 0.5
        return cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST).astype(bool)
    polygons = [
        (np.reshape(polygon, (-1, 2)) @ matrix[:, :2].T + matrix[:, 2]).ravel().tolist()
        for polygon in segmentation
    ]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


def large_scale_jitter(
    image: np.ndarray,
    annotations: list[dict[str, Any]],
    rng: np.random.Generator,
    *,
    crop_size: int,
    scale: tuple[float, float],
    flip: float,
    photo_size: tuple[int, int],
    tile: int = 0,
) -> Sample:
    """Scale, crop and flip (large-scale jitter, Ghiasi et al. 2021, arXiv:2012.07177).

    At scale 1 the photo just fits into the square crop. Above 1, the crop is a random window of the photo; below 1,
    the photo is placed at random in the square, and the rest is filled with the mean color.

    Args:
        image: (h, w, 3) uint8, the photo, possibly downscaled.
        annotations: in Detectron2's format, in pixels of the stored photo.
        scale: smallest and largest factor; one is drawn uniformly.
        flip: probability of a horizontal flip.
        photo_size: (height, width) of the stored photo; larger than the image's if that is downscaled.
        tile: side in pixels of the photo of what just fits at scale 1; 0 for the whole photo.
    """
    height, width = photo_size
    factor = rng.uniform(*scale) * crop_size / (tile or max(height, width))
    scaled_width, scaled_height = max(1, round(width * factor)), max(1, round(height * factor))
    shrinks = scaled_width < image.shape[1]
    scaled = cv2.resize(
        image, (scaled_width, scaled_height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    # the scaled photo's top left corner, such that the crop lies inside the photo or contains it
    x, y = (_offset(rng, crop_size - side) for side in (scaled_width, scaled_height))
    canvas = np.full((crop_size, crop_size, 3), MEAN_COLOR, np.uint8)
    window = scaled[max(-y, 0) : crop_size - y, max(-x, 0) : crop_size - x]
    canvas[max(y, 0) :, max(x, 0) :][: window.shape[0], : window.shape[1]] = window
    matrix = np.array([[scaled_width / width, 0, x], [0, scaled_height / height, y]])
    if rng.random() < flip:
        canvas = np.ascontiguousarray(canvas[:, ::-1])
        matrix = np.array([[-matrix[0, 0], 0, crop_size - x], matrix[1]])

    size = (crop_size, crop_size)
    masks, class_ids = [], []
    for annotation in annotations:
        mask = segmentation_to_mask(annotation["segmentation"], matrix, size)
        x0, y0, x1, y1 = annotation["bbox"]
        whole = 0.5 * (x1 - x0) * (y1 - y0) * factor**2  # half the box: near enough to an object's area
        if mask.sum() >= max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * whole):
            masks.append(mask)
            class_ids.append(annotation["category_id"])
    return Sample(
        canvas, np.stack(masks) if masks else np.zeros((0, *size), bool), np.array(class_ids, np.int64)
    )


def _offset(rng: np.random.Generator, room: int) -> int:
    return int(rng.integers(min(room, 0), max(room, 0) + 1))


def jitter_color(
    sample: Sample,
    rng: np.random.Generator,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Sample:
    """Change brightness, contrast and saturation (each by a factor in 1 ± value) and hue (by ± value turns)."""
    image = sample.image.astype(np.float32)
    image *= rng.uniform(1 - brightness, 1 + brightness)
    factor = rng.uniform(1 - contrast, 1 + contrast)
    image = image * factor + image.mean() * (1 - factor)
    factor = rng.uniform(1 - saturation, 1 + saturation)
    gray = image @ np.array([0.114, 0.587, 0.299], np.float32)
    image = image * factor + gray[..., None] * (1 - factor)
    image = np.clip(image, 0, 255).astype(np.uint8)
    if hue:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        shift = rng.uniform(-hue, hue) * 180  # a full turn is 180 in 8-bit OpenCV
        hsv[..., 0] = ((hsv[..., 0] + shift) % 180).astype(np.uint8)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    return replace(sample, image=image)


def copy_paste(
    target: Sample, source: Sample, rng: np.random.Generator, *, blend_sigma: float = 1.5
) -> Sample:
    """Paste a random subset of the source's instances onto the target (Ghiasi et al. 2021, arXiv:2012.07177).

    Both samples must have the same size. Edges are blended with a blurred mask. Pixels that the pasted instances
    cover are removed from the target's masks; instances that are almost fully covered are dropped.
    """
    count = len(source.masks)
    if count == 0:
        return target
    chosen = np.flatnonzero(rng.random(count) < 0.5)
    if len(chosen) == 0:
        chosen = rng.integers(0, count, 1)
    pasted = source.masks[chosen]
    union = pasted.any(axis=0)
    alpha = cv2.GaussianBlur(union.astype(np.float32), (0, 0), blend_sigma)[..., None]
    image = (source.image * alpha + target.image * (1 - alpha)).astype(np.uint8)

    visible = target.masks & ~union
    before, after = target.masks.sum(axis=(1, 2)), visible.sum(axis=(1, 2))
    keep = after >= np.maximum(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * before)
    return Sample(
        image,
        np.concatenate([visible[keep], pasted]),
        np.concatenate([target.class_ids[keep], source.class_ids[chosen]]),
    )
