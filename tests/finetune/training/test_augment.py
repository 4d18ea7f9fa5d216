"""Augmentation keeps pictures and masks together, and batches depend on the step alone."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from finetune.training.augment import Sample, copy_paste, jitter_color, large_scale_jitter

RED = np.array([0, 0, 255], np.uint8)


def photo_with_square(form: str) -> tuple[np.ndarray, list[dict]]:
    """A black photo with a red square at x 40..80, y 20..60, annotated as polygon or RLE."""
    image = np.zeros((100, 160, 3), np.uint8)
    image[20:60, 40:80] = RED
    if form == "polygon":
        segmentation = [[40, 20, 80, 20, 80, 60, 40, 60]]
    else:
        segmentation = coco_mask.encode(np.asfortranarray(image[..., 2] > 0, np.uint8))
    return image, [{"bbox": [40, 20, 80, 60], "category_id": 0, "segmentation": segmentation}]


def jitter(image: np.ndarray, annotations: list[dict], seed: int = 0, **options) -> Sample:
    defaults = {"crop_size": 64, "scale": (1.0, 1.0), "flip": 0.0, "photo_size": (100, 160)}
    return large_scale_jitter(image, annotations, np.random.default_rng(seed), **defaults | options)


def overlap(sample: Sample) -> float:
    """IoU of the only mask and the red pixels."""
    red = (sample.image[..., 2] > 190) & (sample.image[..., 1] < 60)
    (mask,) = sample.masks
    return (red & mask).sum() / (red | mask).sum()


@pytest.mark.parametrize("form", ["polygon", "rle"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_mask_lies_on_its_object_to_the_pixel(form, scale, flip):
    for seed in range(4):  # other positions; at scale 2 the object may lie outside
        sample = jitter(*photo_with_square(form), seed, crop_size=160, scale=(scale, scale), flip=flip)
        assert (seed and not len(sample.masks)) or overlap(sample) > 0.96


def test_a_reduced_photo_gives_the_same_masks():
    image, annotations = photo_with_square("polygon")
    whole, reduced = jitter(image, annotations), jitter(image[::2, ::2], annotations)
    assert (whole.masks == reduced.masks).all()
    assert np.abs(whole.image.astype(int) - reduced.image).mean() < 5


def test_instances_outside_the_crop_are_dropped():
    photo = photo_with_square("polygon")
    assert {len(jitter(*photo, seed, scale=(3.0, 3.0)).masks) for seed in range(40)} == {0, 1}


def test_a_crop_of_a_tile_has_its_scale_whatever_the_size_of_the_photo():
    image = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    crop = jitter(image, [], crop_size=64, tile=64, photo_size=(400, 600)).image
    windows = np.lib.stride_tricks.sliding_window_view(image, (64, 64), axis=(0, 1))
    (place,) = np.argwhere((windows[..., 0, 0] == crop[0, 0]).all(axis=2))
    np.testing.assert_array_equal(windows[tuple(place)].transpose(1, 2, 0), crop)


def test_pasted_instances_cover_what_lies_below():
    size = 32
    below, above = np.zeros((1, size, size), bool), np.zeros((1, size, size), bool)
    below[0, 4:20, 4:20] = True
    above[0, 12:28, 12:28] = True
    target = Sample(np.zeros((size, size, 3), np.uint8), below, np.array([0]))
    source = Sample(np.full((size, size, 3), 255, np.uint8), above, np.array([1]))
    pasted = copy_paste(target, source, np.random.default_rng(0))
    assert pasted.class_ids.tolist() == [0, 1]
    assert not (pasted.masks[0] & pasted.masks[1]).any()
    assert pasted.masks[0].sum() == 16 * 16 - 8 * 8
    assert pasted.image[20, 20].tolist() == [255, 255, 255], "inside: the source"
    assert pasted.image[2, 2].tolist() == [0, 0, 0], "far away: the target"
    assert 0 < pasted.image[20, 12, 0] < 255, "the edge is blended"


def test_hidden_instances_are_dropped_when_pasted_over():
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 8:24, 8:24] = True
    sample = Sample(np.zeros((32, 32, 3), np.uint8), mask, np.array([0]))
    assert copy_paste(sample, sample, np.random.default_rng(0)).class_ids.tolist() == [0]


def test_nothing_to_paste_changes_nothing():
    empty = Sample(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8), bool), np.zeros(0, np.int64))
    assert copy_paste(empty, empty, np.random.default_rng(0)) is empty


def test_color_jitter_at_zero_changes_nothing():
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    sample = Sample(image, np.zeros((0, 16, 16), bool), np.zeros(0, np.int64))
    same = jitter_color(sample, np.random.default_rng(0), brightness=0, contrast=0, saturation=0, hue=0)
    assert np.abs(same.image.astype(int) - image).max() <= 1, "but for rounding"
    other = jitter_color(
        sample, np.random.default_rng(0), brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1
    )
    assert np.abs(other.image.astype(int) - image).mean() > 5
