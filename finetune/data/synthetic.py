"""A balloon data set that is drawn: no download, exact masks, the same pictures for the same seed.

It replaces photos in the demo and in tests. To detect things in photos, train on photos.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from finetune.data.dataset import Instance, Photo, already_made, write_dataset
from finetune.data.masks import encode_mask

EMPTY_EVERY = 15  # every 15th training picture shows no balloon
# A balloon of which less can be seen is left out of the picture, so that none goes unlabelled.
MIN_VISIBLE = 0.12  # of its area
MIN_PIXELS = 40


def make_synthetic(
    root: Path, *, images: int = 60, seed: int = 0, size: tuple[int, int] = (640, 480), force: bool = False
) -> dict[str, Any]:
    """Draw a data set: 70 % train, 15 % val, 15 % test.

    Args:
        images: at least 3. size: width and height in pixels.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: ``root`` is taken.
    """
    width, height = size
    source = f"drawn by `data synthetic --images {images} --seed {seed} --size {width}x{height}`"
    if card := already_made(root, source, force):
        return card
    held_out = max(round(images * 0.15), 1)
    first_val, first_test = images - 2 * held_out, images - held_out
    with tqdm(total=images, desc="drawing", unit="picture", leave=False, disable=None) as bar:

        def draw(numbers: range) -> Iterator[Photo]:
            for number in numbers:
                empty = number < first_val and number % EMPTY_EVERY == EMPTY_EVERY // 2
                rgb, masks = draw_scene((seed, number), width, height, empty=empty)
                encoded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
                instances = [Instance(0, encode_mask(mask)) for mask in masks]
                yield Photo(f"{number:05d}.jpg", encoded, width, height, instances)
                bar.update()

        splits = {
            "train": draw(range(first_val)),
            "val": draw(range(first_val, first_test)),
            "test": draw(range(first_test, images)),
        }
        return write_dataset(
            root, name="synthetic balloons", classes=["balloon"], source=source, splits=splits
        )


def draw_scene(
    seed: int | Sequence[int], width: int, height: int, *, empty: bool = False
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one picture with its balloons.

    Args:
        seed: the same seed draws the same picture.
        width, height: in pixels.
        empty: leave the balloons out.

    Returns:
        The picture, (H, W, 3) uint8 RGB, and one (H, W) bool mask per balloon: the pixels that are its own, occluded
        ones excluded, so no two masks overlap.
    """
    rng = np.random.default_rng(seed)
    picture = _background(rng, height, width)
    free = np.ones((height, width), dtype=bool)
    masks: list[np.ndarray] = []
    while not masks and not empty:
        count = int(rng.choice([1, 2, 3, 5, 8, 12, 16]))
        size = height * rng.uniform(0.1, 0.3) / count**0.25
        middle = rng.uniform(0.25, (0.75, 0.6)) * (width, height)
        spread = rng.choice([size * count**0.5 * 0.6, height * 0.25])  # a bunch, or scattered
        for _ in range(count):  # from near to far
            radius = max(size * rng.uniform(0.7, 1.3), 4)
            outline = balloon_outline(rng, rng.normal(middle, spread), radius, width, height)
            mask = outline & free
            if mask.sum() >= max(MIN_PIXELS, MIN_VISIBLE * outline.sum()):
                paint_balloon(rng, picture, mask, outline)
                free &= ~mask
                masks.append(mask)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.6)  # soft edges, as a lens draws them
    picture += rng.uniform(0.005, 0.03) * rng.standard_normal(picture.shape, dtype=np.float32)
    picture *= rng.uniform(0.85, 1.15)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), masks


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A gradient above a horizon, one below it, and soft blotches; (H, W, 3) float32."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    horizon = rng.uniform(0.5, 1.1)
    top, middle, bottom = (_hsv(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.3, 0.95)) for _ in range(3))
    picture = np.where(rows < horizon, top + (middle - top) * rows, bottom * (1.2 - 0.5 * rows))
    cells = rng.random((8, 10), dtype=np.float32)
    blotches = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return (picture * (0.8 + 0.4 * blotches)).astype(np.float32)


def balloon_outline(
    rng: np.random.Generator, center: np.ndarray, radius: float, width: int, height: int
) -> np.ndarray:
    """The mask (H, W) bool of a balloon: an ellipse that narrows to its neck, which hangs about straight down."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    along = np.cos(angles)  # 1 at the neck
    across = np.sin(angles) * (1 - rng.uniform(0.02, 0.3) * np.clip(along, 0, 1))
    points = radius * np.stack([across, along * rng.uniform(1.06, 1.3)], axis=1)
    tilt = rng.normal(0, 0.3)
    cos, sin = np.cos(tilt), np.sin(tilt)
    turned = points @ np.array([[cos, sin], [-sin, cos]]) + center
    mask = np.zeros((height, width), dtype=np.uint8)
    cv2.fillPoly(mask, [np.round(turned * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def paint_balloon(
    rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray, outline: np.ndarray
) -> None:
    """Paint glossy rubber in a color that balloons are sold in, lit from the upper left, where ``mask`` is True."""
    saturation, value = rng.choice([(0.85, 0.85), (0.85, 0.85), (0.3, 0.92), (0.03, 0.93), (0.4, 0.15)])
    color = _hsv(rng.random(), saturation + rng.uniform(-0.1, 0.1), value + rng.uniform(-0.1, 0.06))
    y, x = np.nonzero(mask)
    rows, columns = np.nonzero(outline)
    reach_y, reach_x = np.ptp(rows) / 2 + 1, np.ptp(columns) / 2 + 1
    towards_x, towards_y = (x - columns.mean()) / reach_x + 0.45, (y - rows.mean()) / reach_y + 0.45
    distance = np.hypot(towards_x, towards_y)[:, None]  # from the place nearest to the light, in radii
    spark = rng.uniform(0.4, 0.9) * np.exp(-rng.uniform(20, 80) * distance**2)
    picture[mask] = color * np.clip(1.1 - 0.4 * distance, 0.3, 1) + spark


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """A color by hue, saturation and value, each 0..1; (3,) RGB."""
    pixel = np.array([[[hue * 360, np.clip(saturation, 0, 1), np.clip(value, 0, 1)]]], dtype=np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]
