"""`data synthetic`: the masks fit the pixels, the pictures differ, the same seed draws the same."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from finetune.data.dataset import load_split
from finetune.data.synthetic import MIN_PIXELS, draw_scene
from tests.finetune.data.samples import nothing_left, run


def test_the_same_seed_draws_the_same_picture_and_another_one_another():
    (first, masks), (again, masks_again), (other, _) = (draw_scene(seed, 160, 120) for seed in (5, 5, 6))
    assert (first == again).all()
    assert all((a == b).all() for a, b in zip(masks, masks_again, strict=True))
    assert np.abs(first.astype(int) - other).mean() > 5
    assert draw_scene(5, 160, 120, empty=True)[1] == []


@pytest.mark.parametrize("size", [(64, 64), (200, 300)])
def test_masks_are_boolean_disjoint_and_large_enough_and_balloons_vary(size):
    colors, counts = [], []
    for seed in range(20):
        picture, masks = draw_scene(seed, *size)
        assert (picture.shape, picture.dtype) == ((size[1], size[0], 3), np.uint8)
        assert all(mask.shape == picture.shape[:2] and mask.dtype == bool for mask in masks)
        assert min(mask.sum() for mask in masks) >= MIN_PIXELS
        assert sum(mask.astype(int) for mask in masks).max() == 1
        counts.append(len(masks))
        colors += [picture[mask].mean(axis=0) for mask in masks]
    assert max(counts) >= min(counts) + 3
    assert np.std(colors, axis=0).min() > 25


def test_a_mask_covers_what_was_painted():
    """Between balloons there is the background of the picture without them, up to the blur of the lens."""
    (picture, masks), (background, _) = draw_scene(3, 320, 240), draw_scene(3, 320, 240, empty=True)
    free = ~np.any(masks, axis=0)
    low = picture[free].mean(axis=0) / background[free].mean(axis=0)
    assert low == pytest.approx([low[0]] * 3, abs=0.03), "another exposure, but the same colors"
    assert np.abs(picture.astype(int) - background)[~free].mean() > 20


def test_the_data_set(tmp_path, capsys):
    command = "data synthetic --images 20 --size 128x96 --seed 4 --root".split()
    assert run(*command, tmp_path / "a") == 0
    assert "synthetic balloons: train 14, val 3, test 3 photos; classes: balloon" in capsys.readouterr().err
    train, val, test = (load_split(tmp_path / "a", split) for split in ("train", "val", "test"))
    assert [len(train), len(val), len(test)] == [14, 3, 3]
    assert sum(not photo["annotations"] for photo in train) == 1
    _, masks = draw_scene((4, 17), 128, 96)
    decoded = [coco_mask.decode(annotation["segmentation"]) for annotation in test[0]["annotations"]]
    assert all((a == b).all() for a, b in zip(masks, decoded, strict=True))
    assert run("data", "check", tmp_path / "a") == 0
    assert "0 errors" in capsys.readouterr().out
    assert run(*command, tmp_path / "b") == 0
    for file in sorted((tmp_path / "a").rglob("*.*")):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_again_draws_nothing(tmp_path, capsys):
    command = ("data", "synthetic", "--root", tmp_path / "a", "--size", "64x64", "--images")
    assert [run(*command, 3), run(*command, 3)] == [0, 0]
    assert "is up to date" in capsys.readouterr().err
    assert run(*command, 4) == 1
    assert run(*command, 4, "--force") == 0
    assert len(load_split(tmp_path / "a", "train")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--images 2", "2 is not in the range x>=3"),
        ("--size 32x32", "of 64 to 4096 pixels a side"),
        ("--size big", "not a size such as 640x480"),
        ("--images many", "is not a valid integer"),
        ("--seed=-1", "is not in the range"),
    ],
)
def test_bad_options(tmp_path, capsys, options, message):
    assert run("data", "synthetic", "--root", tmp_path / "a", *options.split()) == 2
    assert message in capsys.readouterr().err
    assert nothing_left(tmp_path / "a")
