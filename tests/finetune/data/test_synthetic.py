"""`data synthetic`: the masks fit the pixels, the pictures differ, the same seed draws the same."""

from pathlib import Path

import numpy as np
import pytest

from finetune.data.dataset import load_split
from finetune.data.drawing import MIN_PIXELS, draw_balloon, draw_scene
from tests.finetune.data.samples import nothing_left, run


def test_the_same_seed_draws_the_same_picture_and_another_one_another() -> None:
    (first, masks), (again, masks_again), (other, _) = (draw_scene(seed, 160, 120) for seed in (5, 5, 6))
    assert (first == again).all()
    assert all((a == b).all() for a, b in zip(masks, masks_again, strict=True))
    assert np.abs(first.astype(int) - other).mean() > 5


@pytest.mark.parametrize("size", [(64, 64), (320, 240), (200, 300)])
def test_masks_are_boolean_disjoint_and_large_enough(size: tuple[int, int]) -> None:
    for seed in range(12):
        picture, masks = draw_scene(seed, *size)
        assert (picture.shape, picture.dtype) == ((size[1], size[0], 3), np.uint8)
        assert masks
        assert all(mask.shape == picture.shape[:2] and mask.dtype == bool for mask in masks)
        assert min(mask.sum() for mask in masks) >= MIN_PIXELS
        assert sum(mask.astype(int) for mask in masks).max() == 1


def test_an_empty_picture_has_no_balloon() -> None:
    assert draw_scene(3, 160, 120, empty=True)[1] == []


@pytest.mark.parametrize("tilt", [0.0, 0.4, -2.0, 3.1])
def test_the_outline_is_that_of_the_formula(tilt: float) -> None:
    """The cover's area equals the integral of R(t), whatever the tilt and the place between pixels."""
    areas = []
    for offset in (0.0, 0.37):
        patch = draw_balloon(
            np.random.default_rng(7), (100 + offset, 90.5), 40, tilt, np.array([0.9, 0.1, 0.1])
        )
        areas.append(float(patch.cover.sum()))
    draws = np.random.default_rng(7)
    neck, length = draws.uniform(0.52, 0.82), 40 * draws.uniform(1.06, 1.3)
    t = np.linspace(-1, 1, 20001)
    profile = np.sqrt(1 + t) * (1 - t) ** neck
    area = 2 * length * np.trapezoid(profile / profile.max() * 40, t)
    assert areas[0] == pytest.approx(areas[1], rel=0.002)
    assert areas[0] == pytest.approx(area, rel=0.02)


def test_balloons_stand_out_and_vary() -> None:
    colors, counts, shares = [], [], []
    for seed in range(25):
        picture, masks = draw_scene(seed, 160, 120)
        counts.append(len(masks))
        shares.append(np.any(masks, axis=0).mean())
        colors += [picture[mask].mean(axis=0) for mask in masks]
    assert min(counts) <= 3
    assert max(counts) >= 10
    assert max(shares) > 0.2
    assert np.std(colors, axis=0).min() > 25


def test_the_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("data", "synthetic", "--images", 20, "--size", "128x96", "--root")
    assert run(*command, tmp_path / "a") == 0
    assert "synthetic balloons: train 14, val 3, test 3 photos; classes: balloon" in capsys.readouterr().err
    assert [len(load_split(tmp_path / "a", split)) for split in ("train", "val", "test")] == [14, 3, 3]
    assert sum(not photo["annotations"] for photo in load_split(tmp_path / "a", "train")) == 1
    assert run("data", "check", tmp_path / "a") == 0
    assert "0 errors" in capsys.readouterr().out
    assert run(*command, tmp_path / "b") == 0
    for file in sorted((tmp_path / "a").rglob("*.*")):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_the_masks_on_disk_are_the_drawn_ones(tmp_path: Path) -> None:
    from pycocotools import mask as coco_mask

    assert (
        run("data", "synthetic", "--root", tmp_path / "a", "--images", 3, "--seed", 4, "--size", "128x96")
        == 0
    )
    (photo,) = load_split(tmp_path / "a", "test")
    _, masks = draw_scene((4, 2), 128, 96)
    decoded = [coco_mask.decode(annotation["segmentation"]) for annotation in photo["annotations"]]
    assert all((a == b).all() for a, b in zip(masks, decoded, strict=True))


def test_again_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("data", "synthetic", "--root", tmp_path / "a", "--size", "64x64", "--images")
    assert run(*command, 3) == 0
    assert run(*command, 3) == 0
    assert "is up to date" in capsys.readouterr().err
    assert run(*command, 4) == 1
    assert run(*command, 4, "--force") == 0
    assert len(load_split(tmp_path / "a", "train")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", 2), "2 is not in the range x>=3"),
        (("--size", "32x32"), "out of bounds"),
        (("--size", "9000x9000"), "out of bounds"),
        (("--size", "big"), "not a size such as 640x480"),
        (("--images", "many"), "is not a valid integer"),
        (("--seed=-1",), "is not in the range"),
    ],
)
def test_bad_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple, message: str
) -> None:
    assert run("data", "synthetic", "--root", tmp_path / "a", *options) == 2
    assert message in capsys.readouterr().err
    assert nothing_left(tmp_path / "a")
