"""A balloon data set that is drawn: no download, exact masks, the same pictures for the same seed.

It replaces photos in the demo and in tests. To detect things in photos, train on photos.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from finetune.data.dataset import Instance, Photo, already_made, write_dataset
from finetune.data.drawing import draw_scene
from finetune.data.masks import encode_mask

EMPTY_EVERY = 15  # every 15th training picture shows no balloon


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
    counts = {"train": images - 2 * held_out, "val": held_out, "test": held_out}

    with tqdm(total=images, desc="drawing", unit="picture", leave=False, disable=None) as bar:

        def draw(first: int, count: int, split: str) -> Iterator[Photo]:
            for number in range(first, first + count):
                empty = split == "train" and number % EMPTY_EVERY == EMPTY_EVERY // 2
                yield _photo(seed, number, width, height, empty)
                bar.update()

        splits, first = {}, 0
        for split, count in counts.items():
            splits[split] = draw(first, count, split)
            first += count
        return write_dataset(
            root, name="synthetic balloons", classes=["balloon"], source=source, splits=splits
        )


def _photo(seed: int, number: int, width: int, height: int, empty: bool) -> Photo:
    rgb, masks = draw_scene((seed, number), width, height, empty=empty)
    quality = int(np.random.default_rng((seed, number, 1)).integers(72, 96))
    encoded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return Photo(
        f"{number:05d}.jpg", encoded, width, height, [Instance(0, encode_mask(mask)) for mask in masks]
    )
