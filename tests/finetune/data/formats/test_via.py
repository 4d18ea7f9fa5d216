"""`data via`: every shape, both versions, classes, splits, and what is refused."""

import math
from pathlib import Path

import numpy as np
import pytest

from finetune.data.dataset import class_names, load_split
from finetune.data.formats.via import read_via, shape_points
from finetune.data.masks import polygon_area
from tests.finetune.data.samples import (
    TRIANGLE,
    nothing_left,
    polygon,
    run,
    run_import,
    save_photo,
    save_via,
    via_entry,
    via_folder,
)


def objects(root: Path, split: str = "train") -> list[dict]:
    return [annotation for photo in load_split(root, split) for annotation in photo["annotations"]]


@pytest.mark.parametrize(
    ("shape", "area", "box"),
    [
        (TRIANGLE, 15 * 15 / 2, (5, 5, 20, 20)),
        ({**polygon((5, 5), (20, 5), (5, 20)), "name": "polyline"}, 15 * 15 / 2, (5, 5, 20, 20)),
        ({"name": "rect", "x": 3, "y": 4, "width": 10, "height": 6}, 60, (3, 4, 13, 10)),
        ({"name": "circle", "cx": 20, "cy": 15, "r": 10}, math.pi * 100, (10, 5, 30, 25)),
        ({"name": "ellipse", "cx": 20, "cy": 15, "rx": 12, "ry": 4}, math.pi * 48, (8, 11, 32, 19)),
        (
            {"name": "ellipse", "cx": 20, "cy": 15, "rx": 12, "ry": 4, "theta": math.pi / 2},
            math.pi * 48,
            (16, 3, 24, 27),
        ),
    ],
)
def test_shapes_become_outlines_half_a_pixel_in(shape: dict, area: float, box: tuple[float, ...]) -> None:
    points = shape_points(shape)
    assert polygon_area(points) == pytest.approx(area, rel=0.001)
    assert (*points.min(axis=0), *points.max(axis=0)) == pytest.approx(np.array(box) + 0.5, abs=0.03)


def test_an_ellipse_turns_clockwise_as_on_a_screen() -> None:
    points = (
        shape_points({"name": "ellipse", "cx": 0, "cy": 0, "rx": 10, "ry": 1, "theta": math.pi / 4}) - 0.5
    )
    far = points[np.argmax(points.sum(axis=1))]
    assert far == pytest.approx([10 / math.sqrt(2)] * 2, abs=0.1)


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("as_dict", [False, True])
def test_both_versions_and_project_files_read_alike(tmp_path: Path, project: bool, as_dict: bool) -> None:
    entry = via_entry("a.jpg", TRIANGLE, TRIANGLE, as_dict=as_dict, kind="cup")
    data = {"a.jpg1": entry}
    if project:
        data = {"_via_settings": {}, "_via_img_metadata": data, "_via_attributes": {"region": {}}}
    region = {"shape_attributes": TRIANGLE, "region_attributes": {"kind": "cup"}}
    assert read_via(tmp_path / "via.json", data) == {"a.jpg": [region, region]}


def test_one_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "mugs"
    assert run_import(via_folder(tmp_path / "photos", 10), "--class", "mug", "--root", root) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{root}\n"
    assert "mugs: train 6, val 2, test 2 photos; classes: mug" in captured.err
    (first, *_) = objects(root)
    assert first["segmentation"] == [[5.5, 5.5, 20.5, 5.5, 5.5, 20.5]]
    assert run("data", "check", root) == 0


def test_several_classes_by_attribute(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    values = ["mug", " cup ", {"cup": True, "mug": False}, "mug"]  # text, dropdown or radio; a checkbox
    save_via(folder, *(via_entry(f"{i}.jpg", TRIANGLE, kind=value) for i, value in enumerate(values)))
    root = tmp_path / "set"
    assert run_import(folder, "--class-attribute", "kind", "--root", root, "--val", 0, "--test", 0) == 0
    assert class_names(root) == ["cup", "mug"]
    assert [annotation["category_id"] for annotation in objects(root)] == [1, 0, 0, 1]


def test_folders_of_their_own_are_kept_and_the_missing_split_is_drawn(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("val", 3)):
        via_folder(tmp_path / "photos" / split, count)
    root = tmp_path / "set"
    assert run_import(tmp_path / "photos", "--class", "mug", "--root", root, "--test", 0.25) == 0
    assert [len(load_split(root, split)) for split in ("train", "val", "test")] == [6, 3, 2]
    assert run("data", "check", root) == 0


def test_the_split_is_reproducible_and_moved_by_the_seed(tmp_path: Path) -> None:
    folder = via_folder(tmp_path / "photos", 12)
    names = {}
    for root, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run_import(folder, "--class", "mug", "--root", tmp_path / root, "--seed", seed) == 0
        names[root] = [Path(photo["file_name"]).name for photo in load_split(tmp_path / root, "val")]
    assert names["a"] == names["b"] != names["c"]


def test_photos_without_regions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    save_via(folder, *(via_entry(f"{i}.jpg", *[TRIANGLE] * (i % 2)) for i in range(8)))
    split = ("--class", "mug", "--val", 0.25, "--test", 0)
    assert run_import(folder, *split, "--root", tmp_path / "a", "--empty", "drop") == 0
    assert (
        "left out: 4 photos annotated with no object (0.jpg, 2.jpg, 4.jpg and 1 more)"
        in capsys.readouterr().err
    )
    assert run_import(folder, *split, "--root", tmp_path / "b") == 0
    assert "kept as examples of nothing to find: 4 photos" in capsys.readouterr().err
    assert [len(load_split(tmp_path / root, "train")) for root in "ab"] == [3, 6]


def test_polygons_are_clipped_to_the_photo(tmp_path: Path) -> None:
    save_via(tmp_path / "photos", via_entry("a.jpg", polygon((-5, -5), (40, -5), (40, 30), (-5, 30))))
    split = ("--class", "mug", "--val", 0, "--test", 0)
    assert run_import(tmp_path / "photos", *split, "--root", tmp_path / "set") == 0
    assert objects(tmp_path / "set")[0]["bbox"] == [0, 0, 40, 30]


def test_a_lying_photo_is_annotated_as_it_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    save_photo(folder / "a.jpg", 40, 30, orientation=6)  # seen 30 wide and 40 high
    save_via(folder, via_entry("a.jpg", {"name": "rect", "x": 0, "y": 30, "width": 29, "height": 9}))
    split = ("--class", "mug", "--val", 0, "--test", 0)
    assert run_import(folder, *split, "--root", tmp_path / "set") == 0
    (photo,) = load_split(tmp_path / "set", "train")
    assert (photo["width"], photo["height"]) == (30, 40)
    assert photo["annotations"][0]["bbox"] == [0.5, 30.5, 29.5, 39.5]
    assert run("data", "check", tmp_path / "set") == 0


def _without_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _truncated(folder: Path) -> None:
    whole = save_photo(folder / "1.jpg", 200, 200).read_bytes()
    (folder / "1.jpg").write_bytes(whole[:-300])


def _via(text: str):
    return lambda folder: (folder / "via_region_data.json").write_text(text)


def _entries(*entries: dict):
    return lambda folder: save_via(folder, via_entry("0.jpg", TRIANGLE), *entries)


BAD = {
    "missing folder": (_without_folder, "photos is not there"),
    "no VIA file": (lambda folder: (folder / "via_region_data.json").unlink(), "holds no VIA file"),
    "not JSON": (_via("{"), "not valid JSON"),
    "not VIA": (_via('{"images": []}'), "holds no VIA file"),
    "a list": (_via("[1]"), "holds no VIA file"),
    "empty data set": (_via("{}"), "holds no VIA file"),
    "no photos": (_via('{"_via_img_metadata": {}}'), "lists no photos"),
    "no regions": (_via('{"a": {"filename": "0.jpg", "regions": []}}'), "holds no annotations"),
    "damaged regions": (_via('{"a": {"filename": "0.jpg", "regions": [3]}}'), "are damaged"),
    "missing photo": (lambda folder: (folder / "1.jpg").unlink(), "names the photo '1.jpg', which is not in"),
    "truncated JPEG": (_truncated, "1.jpg cannot be read (image file is truncated"),
    "two points": (
        _entries(via_entry("1.jpg", polygon((1, 1), (9, 9)))),
        "has 2 different points and needs at least 3",
    ),
    "uneven points": (
        _entries(via_entry("1.jpg", {"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]})),
        "has 3 x but 2 y coordinates",
    ),
    "a point": (
        _entries(via_entry("1.jpg", {"name": "point", "cx": 1, "cy": 1})),
        "is of the kind 'point', which has no area",
    ),
    "no radius": (_entries(via_entry("1.jpg", {"name": "circle", "cx": 1, "cy": 1})), "circle 1 of"),
    "not numbers": (_entries(via_entry("1.jpg", polygon(("a", 1), (2, 2), (3, 1)))), "the coordinate 'a'"),  # type: ignore[arg-type]
    "null": (
        _entries(via_entry("1.jpg", {"name": "rect", "x": None, "y": 1, "width": 1, "height": 1})),
        "the coordinate None",
    ),
    "no lists": (
        _entries(via_entry("1.jpg", {"name": "polygon", "all_points_x": 1, "all_points_y": 1})),
        "coordinates that are no lists",
    ),
    "outside": (
        _entries(via_entry("1.jpg", polygon((50, 5), (60, 5), (60, 9)))),
        "lies outside the image (40 x 30)",
    ),
    "leads out": (
        _via('{"a": {"filename": "../x.jpg", "regions": [{"shape_attributes": {}}]}}'),
        "names the photo '../x.jpg', which is not in",
    ),
    "named twice": (
        _via('{"a": {"filename": "0.jpg", "regions": []}, "b": {"filename": "0.jpg", "regions": []}}'),
        "lists 0.jpg twice",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    spoil, message = BAD[case]
    folder = via_folder(tmp_path / "photos", 2)
    spoil(folder)
    split = ("--class", "mug", "--val", 0, "--test", 0)
    assert run_import(folder, *split, "--root", tmp_path / "set") == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("Error: ")
    assert message in error
    assert "\n" not in error
    assert nothing_left(tmp_path / "set")


def test_bad_shapes_can_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_via(tmp_path / "photos", via_entry("a.jpg", TRIANGLE, polygon((1, 1), (2, 2)), {"name": "point"}))
    split = ("--class", "mug", "--val", 0, "--test", 0, "--skip-bad")
    assert run_import(tmp_path / "photos", *split, "--root", tmp_path / "set") == 0
    assert len(objects(tmp_path / "set")) == 1
    assert capsys.readouterr().err.count("skipped: ") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --class NAME for one class, or --class-attribute NAME for several (the regions"),
        (("--class-attribute", "sort"), "has the attribute 'sort'"),
        (("--class", "mug", "--val", 0.9, "--test", 0.9), "leave nothing to train on"),
    ],
)
def test_choices_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple, message: str
) -> None:
    folder = via_folder(tmp_path / "photos", 4, kind="cup", color="red")
    assert run_import(folder, *options, "--root", tmp_path / "set") == 1
    assert message in capsys.readouterr().err
    assert nothing_left(tmp_path / "set")


def test_a_class_that_training_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, kind in (("train", "cup"), ("val", "bowl")):
        via_folder(tmp_path / "photos" / split, 2, kind=kind)
    split = ("--class-attribute", "kind", "--test", 0)
    assert run_import(tmp_path / "photos", *split, "--root", tmp_path / "set") == 1
    assert "has the class 'bowl', which no training photo has" in capsys.readouterr().err


def test_the_same_command_again_does_nothing_another_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = via_folder(tmp_path / "photos", 5)
    command = ("data", "import", folder, "--format", "via", "--root", tmp_path / "set", "--class")
    assert run(*command, "mug") == 0
    before = (tmp_path / "set" / "dataset.json").stat().st_mtime_ns
    assert run(*command, "mug") == 0
    assert "is up to date" in capsys.readouterr().err
    assert (tmp_path / "set" / "dataset.json").stat().st_mtime_ns == before
    assert run(*command, "cup") == 1
    assert "holds another data set" in capsys.readouterr().err
    assert run(*command, "cup", "--force") == 0
    assert class_names(tmp_path / "set") == ["cup"]
