"""VIA: every shape, both versions, classes, and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from finetune.data.dataset import class_names, load_split
from finetune.data.formats.via import read_via, shape_points
from tests.finetune.data.samples import TRIANGLE, polygon, run, save_photo, save_via, via_entry, via_folder

CIRCLE = {"name": "circle", "cx": 20, "cy": 15, "r": 10}
ELLIPSE = {"name": "ellipse", "cx": 20, "cy": 15, "rx": 12, "ry": 4}


def objects(root: Path) -> list[dict]:
    return [annotation for photo in load_split(root, "train") for annotation in photo["annotations"]]


@pytest.mark.parametrize(
    ("shape", "area", "box"),
    [
        (TRIANGLE, 15 * 15 / 2, (5, 5, 20, 20)),
        (TRIANGLE | {"name": "polyline"}, 15 * 15 / 2, (5, 5, 20, 20)),
        ({"name": "rect", "x": 3, "y": 4, "width": 10, "height": 6}, 60, (3, 4, 13, 10)),
        (CIRCLE, math.pi * 100, (10, 5, 30, 25)),
        (ELLIPSE, math.pi * 48, (8, 11, 32, 19)),
        (ELLIPSE | {"theta": math.pi / 2}, math.pi * 48, (16, 3, 24, 27)),
    ],
)
def test_shapes_become_outlines(shape, area, box):
    points = shape_points(shape)
    assert cv2.contourArea(points.astype(np.float32)) == pytest.approx(area, rel=0.001)
    assert (*points.min(axis=0), *points.max(axis=0)) == pytest.approx(box, abs=0.03)


def test_an_ellipse_turns_clockwise_as_on_a_screen():
    points = shape_points(ELLIPSE | {"cx": 0, "cy": 0, "rx": 10, "ry": 1, "theta": math.pi / 4})
    assert points[np.argmax(points.sum(axis=1))] == pytest.approx([10 / math.sqrt(2)] * 2, abs=0.1)


@pytest.mark.parametrize(("project", "as_dict"), [(False, True), (True, False)])
def test_both_versions_and_project_files_read_alike(tmp_path, project, as_dict):
    data: dict[str, Any] = {"a.jpg1": via_entry("a.jpg", TRIANGLE, TRIANGLE, as_dict=as_dict, kind="cup")}
    if project:
        data = {"_via_settings": {}, "_via_img_metadata": data, "_via_attributes": {"region": {}}}
    region = {"shape_attributes": TRIANGLE, "region_attributes": {"kind": "cup"}}
    assert read_via(tmp_path / "via.json", data) == {"a.jpg": [region, region]}


def test_one_class_half_a_pixel_in(tmp_path, import_data):
    messages = import_data(via_folder(tmp_path / "photos", 10), "--class", "mug", "--val", 0.2, "--test", 0.2)
    assert "set: train 6, val 2, test 2 photos; classes: mug" in messages
    assert objects(tmp_path / "set")[0]["segmentation"] == [[5.5, 5.5, 20.5, 5.5, 5.5, 20.5]]
    assert run("data", "check", tmp_path / "set") == 0


def test_several_classes_by_attribute(tmp_path, import_data):
    values = ["mug", " cup ", {"cup": True, "mug": False}, "mug"]  # text, dropdown or radio; a checkbox
    entries = [via_entry(f"{i}.jpg", TRIANGLE, kind=value) for i, value in enumerate(values)]
    save_via(tmp_path / "photos", *entries)
    import_data(tmp_path / "photos", "--class-attribute", "kind")
    assert class_names(tmp_path / "set") == ["cup", "mug"]
    assert [annotation["category_id"] for annotation in objects(tmp_path / "set")] == [1, 0, 0, 1]


def test_photos_without_regions(tmp_path, import_data):
    save_via(tmp_path / "photos", *(via_entry(f"{i}.jpg", *[TRIANGLE] * (i % 2)) for i in range(8)))
    command = (tmp_path / "photos", "--class", "mug")
    messages = import_data(*command, "--empty", "drop", root="a")
    assert "left out: 4 photos annotated with no object (0.jpg, 2.jpg, 4.jpg and 1 more)" in messages
    assert "kept as examples of nothing to find: 4 photos" in import_data(*command, root="b")
    assert [len(load_split(tmp_path / root, "train")) for root in "ab"] == [4, 8]


def test_a_lying_photo_is_annotated_as_it_is_seen_and_polygons_are_clipped(tmp_path, import_data):
    save_photo(tmp_path / "photos" / "a.jpg", 40, 30, orientation=6)  # seen 30 wide and 40 high
    shape = {"name": "rect", "x": 0, "y": 30, "width": 35, "height": 9}
    save_via(tmp_path / "photos", via_entry("a.jpg", shape))
    import_data(tmp_path / "photos", "--class", "mug")
    (photo,) = load_split(tmp_path / "set", "train")
    assert (photo["width"], photo["height"]) == (30, 40)
    assert photo["annotations"][0]["bbox"] == [0.5, 30.5, 30, 39.5]
    assert run("data", "check", tmp_path / "set") == 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (TRIANGLE | {"all_points_y": [1, 2]}, "has no lists of x and y coordinates of one length"),
        (TRIANGLE | {"all_points_x": 1}, "has no lists of x and y coordinates of one length"),
        (TRIANGLE | {"all_points_x": ["a", 2, 3]}, "has the coordinate 'a', which is not a finite number"),
        ({"name": "point", "cx": 1, "cy": 1}, "is of the kind 'point', which has no area"),
        ({"name": "circle", "cx": 1, "cy": 1}, "has the r None, which is not a finite number"),
        ({"name": "rect", "x": None, "y": 1, "width": 1, "height": 1}, "has the x None"),
    ],
)
def test_bad_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        shape_points(shape)


def test_bad_objects_can_be_skipped(tmp_path, import_data):
    outside = polygon((50, 5), (60, 5), (60, 9))
    save_via(tmp_path / "photos", via_entry("0.jpg", TRIANGLE), via_entry("1.jpg", outside))
    message = import_data(tmp_path / "photos", "--class", "mug", status=1)
    assert "polygon 1 of" in message
    assert "1.jpg lies outside the image (40 x 30)" in message
    messages = import_data(tmp_path / "photos", "--class", "mug", "--skip-bad")
    assert messages.count("skipped: ") == 1
    assert len(objects(tmp_path / "set")) == 1


def _truncated(folder: Path) -> None:
    whole = save_photo(folder / "1.jpg", 200, 200).read_bytes()
    (folder / "1.jpg").write_bytes(whole[:-300])


def _via(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "via_region_data.json").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: folder.rename(folder.with_name("moved")), "photos is not there"),
        (_via("{"), "not valid JSON"),
        (_via('{"images": []}'), "holds no VIA file"),
        (_via("[1]"), "holds no VIA file"),
        (_via('{"_via_img_metadata": {}}'), "holds no annotated object"),
        (_via('{"_via_img_metadata": {"a": {}}}'), "lists a photo without a filename"),
        (_via('{"_via_img_metadata": {"a": 3}}'), "lists a photo without a filename"),
        (_via('{"a": {"filename": "0.jpg", "regions": []}}'), "holds no annotated object"),
        (_via('{"a": {"filename": "0.jpg", "regions": [3]}}'), "are damaged"),
        (_truncated, "1.jpg cannot be read (image file is truncated"),
        (
            _via(json.dumps({"a": via_entry("../x.jpg", TRIANGLE)})),
            "names the photo '../x.jpg', which is not in",
        ),
        (_via('{"a": {"filename": "0.jpg"}, "b": {"filename": "0.jpg"}}'), "lists 0.jpg twice"),
    ],
)
def test_bad_files_are_refused(tmp_path, import_data, spoil, message):
    spoil(via_folder(tmp_path / "photos", 2))
    assert message in import_data(tmp_path / "photos", "--format", "via", "--class", "mug", status=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "give --class NAME for one class, or --class-attribute NAME for several (the regions"),
        ("--class-attribute sort", "has the attribute 'sort'"),
        ("--class mug --val 0.9 --test 0.9", "leave nothing to train on"),
    ],
)
def test_choices_that_do_not_fit(tmp_path, import_data, options, message):
    folder = via_folder(tmp_path / "photos", 4, kind="cup", color="red")
    assert message in import_data(folder, *options.split(), status=1)
