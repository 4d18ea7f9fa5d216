"""All formats alike: files of other tools, round trips, shapes, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from finetune.data.dataset import Instance, Photo, class_names, read_photos, splits_of, write_dataset
from finetune.data.formats import FORMATS
from finetune.data.formats.label_studio import decode_brush
from finetune.data.masks import encode_mask, to_mask
from tests.finetune.data.samples import (
    FIXTURES,
    TRIANGLE,
    cvat_file,
    run,
    run_import,
    save_photo,
    save_via,
    via_entry,
    yolo_folder,
)


def objects_of(root: Path) -> dict[str, tuple[str, list[tuple[str, np.ndarray]]]]:
    """Photo name → its split, and class and mask of its objects."""
    names, found = class_names(root), {}
    for split in splits_of(root):
        for photo in read_photos(root, split):
            size = photo.width, photo.height
            objects = [(names[each.class_id], to_mask(each.segmentation, *size)) for each in photo.instances]
            found[photo.name] = (split, objects)
    return found


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(
    ("folder", "recognized", "least"),
    [
        ("supervision_coco", "COCO", 0.65),
        ("supervision_yolo", "YOLO-seg", 0.65),
        ("supervision_labelme", "labelme", 0.65),
        ("labelme", "labelme", 0.999),
        ("datumaro_cvat", "CVAT", 0.999),
        ("datumaro_coco", "COCO", 0.999),
        ("label_studio", "Label Studio", 0.98),
    ],
)
def test_files_of_other_tools(tmp_path, import_data, folder, recognized, least):
    messages = import_data(FIXTURES / folder)
    assert f"recognized as {recognized}: " in messages
    assert "skipped" not in messages
    found = [objects for _, objects in objects_of(tmp_path / "set").values()]
    expected = []
    for item in json.loads((FIXTURES / "truth.json").read_text(encoding="utf-8")):
        size, objects = (item["width"], item["height"]), item["objects"]
        expected.append([(i["class"], to_mask([np.ravel(i["polygon"]).tolist()], *size)) for i in objects])
    for photos in (found, expected):
        photos.sort(key=lambda objects: [mask.sum() for _, mask in objects])
    for ours, theirs in zip(found, expected, strict=True):
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        for (_, a), (_, b) in zip(ours, theirs, strict=True):
            assert iou(a, b) >= least
            assert not (a & ~_widened(b)).any()
            assert not (b & ~_widened(a)).any()


def _widened(mask: np.ndarray) -> np.ndarray:
    """The mask and one pixel around it."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with a polygon, a ring as a mask, an object of two parts and an empty photo."""
    folder = tmp_path_factory.mktemp("varied")
    y, x = np.mgrid[:60, :80]
    distance = np.hypot(x - 40, y - 30)
    ring = encode_mask((distance < 20) & (distance > 8))
    triangle = [[5.25, 5.5, 30.0, 8.0, 10.75, 40.0]]
    parts = [*triangle, [50.0, 40.0, 70.0, 40.0, 70.0, 55.0]]
    instances = [
        [Instance(0, triangle), Instance(1, ring)],
        [Instance(1, parts)],
        [],
        [Instance(0, ring), Instance(1, triangle)],
    ]
    photos = [
        Photo(f"photo {i}.png", save_photo(folder / f"{i}.png", 80, 60, seed=i), 80, 60, each)
        for i, each in enumerate(instances)
    ]
    splits = {"train": photos[:2], "val": photos[2:3], "test": photos[3:]}
    write_dataset(folder / "set", name="varied", classes=["mug", "cup öl"], source="a test", splits=splits)
    return folder / "set"


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(varied, tmp_path, name):
    assert run("data", "export", varied, "--format", name, "--output", tmp_path / "out") == 0
    assert run("data", "import", tmp_path / "out", "--root", tmp_path / "back") == 0
    before, after = objects_of(varied), objects_of(tmp_path / "back")
    assert after.keys() == before.keys()
    for photo, (split, objects) in before.items():
        assert after[photo][0] == split
        for (class_name, mask), (other, back) in zip(objects, after[photo][1], strict=True):
            assert other == class_name
            assert iou(mask, back) >= 0.999


@pytest.mark.parametrize("name", ["via", "labelme", "yolo"])
def test_photos_that_differ_in_their_suffix_alone_keep_their_objects(tmp_path, import_data, name):
    photos = []
    for i, photo in enumerate(("a.jpg", "a.png")):
        objects = [Instance(i, [[5.25, 5.5, 30.0, 8.0, 10.75, 40.0]])]
        photos.append(Photo(photo, save_photo(tmp_path / photo, 80, 60, seed=i), 80, 60, objects))
    write_dataset(tmp_path / "set", name="x", classes=["mug", "cup"], source="", splits={"train": photos})
    assert run("data", "export", tmp_path / "set", "--format", name, "--output", tmp_path / "out") == 0
    import_data(tmp_path / "out", root="back")
    classes = {photo: objects[0][0] for photo, (_, objects) in objects_of(tmp_path / "back").items()}
    names = (
        ("a.jpg", "a.png") if name == "via" else ("a_jpg.jpg", "a_png.png")
    )  # labels are named by the rest
    assert classes == dict(zip(names, ("mug", "cup"), strict=True))


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", FORMATS)
def test_round_trip_of_the_real_photos(balloon_photos, tmp_path, name):
    assert run_import(balloon_photos, "--class", "balloon", "--root", tmp_path / "set") == 0
    assert run("data", "export", tmp_path / "set", "--format", name, "--output", tmp_path / "out") == 0
    assert run("data", "import", tmp_path / "out", "--root", tmp_path / "back") == 0
    before, after = objects_of(tmp_path / "set"), objects_of(tmp_path / "back")
    pairs = [pair for photo in before for pair in zip(before[photo][1], after[photo][1], strict=True)]
    assert len(pairs) == 305
    assert min(iou(a, b) for (_, a), (_, b) in pairs) >= 0.999


def test_an_export_does_not_replace_what_lies_there(varied, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    command = ("data", "export", varied, "--format", "coco", "--output")
    assert run(*command, tmp_path / "out") == 1
    assert "is taken" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine.txt").exists()
    assert run(*command, varied, "--force") == 1
    assert "is the data set itself" in capsys.readouterr().err


# --- shapes -------------------------------------------------------------------------------------------------


def labelme_file(folder: Path, *shapes: dict[str, Any], name: str = "a") -> None:
    save_photo(folder / f"{name}.png", 80, 60, seed=len(name))
    content = {"shapes": list(shapes), "imagePath": f"..\\x\\{name}.png", "imageWidth": 80, "imageHeight": 60}
    (folder / f"{name}.json").write_text(json.dumps(content))


def studio_file(folder: Path, kind: str, value: dict[str, Any]) -> None:
    save_photo(folder / "a.png", 80, 60)
    region = {"type": f"{kind}labels", "value": {f"{kind}labels": ["mug"], **value}, "id": "x"}
    result = [region | {"original_width": 80, "original_height": 60}]
    task = {"id": 1, "data": {"image": "/data/upload/1/0123abcd-a.png"}, "annotations": [{"result": result}]}
    (folder / "a.json").write_text(json.dumps([task]))


def shape(kind: str, *points: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {"label": "mug", "shape_type": kind, "points": points, "group_id": None, **more}


def _cvat(tag: str, **attributes: Any) -> Any:
    text = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return lambda folder: cvat_file(folder, f'<{tag} label="mug" {text}/>')


def _studio(kind: str, **value: Any) -> Any:
    return lambda folder: studio_file(folder, kind, value)


SQUARES = [shape("rectangle", (x, 0), (x + 10, 10), group_id=1) for x in (0, 20)]
SHAPES: list[tuple[Any, tuple[int, ...], int]] = [  # as a tool writes it; its box and area
    (lambda f: labelme_file(f, shape("rectangle", (30, 40), (10, 20))), (10, 20, 30, 40), 400),
    (lambda f: labelme_file(f, shape("circle", (40, 30), (40, 40))), (30, 20, 50, 40), 314),
    (lambda f: labelme_file(f, shape("linestrip", (10, 10), (30, 10), (10, 30))), (10, 10, 30, 30), 200),
    (lambda f: labelme_file(f, *SQUARES), (0, 0, 30, 10), 200),
    (_cvat("box", xtl=10, ytl=20, xbr=30, ybr=40), (10, 20, 30, 40), 400),
    (_cvat("box", xtl=20, ytl=25, xbr=60, ybr=35, rotation=90), (35, 10, 45, 50), 400),
    (_cvat("ellipse", cx=40, cy=30, rx=20, ry=10), (20, 20, 60, 40), 628),
    (_cvat("mask", rle="1, 2, 1, 2", left=10, top=20, width=3, height=2), (10, 20, 13, 22), 4),
    (_studio("rectangle", x=50, y=50, width=25, height=10, rotation=90), (34, 30, 40, 50), 120),
    (_studio("ellipse", x=50, y=50, radiusX=25, radiusY=25, rotation=0), (20, 15, 60, 45), 942),
]


@pytest.mark.parametrize(("write", "box", "area"), SHAPES)
def test_shapes(tmp_path, import_data, write, box, area):
    write(tmp_path / "in")
    import_data(tmp_path / "in")
    ((_, [(class_name, mask)]),) = objects_of(tmp_path / "set").values()
    assert class_name == "mug"
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == pytest.approx(box, abs=1)
    assert mask.sum() == pytest.approx(area, rel=0.06)


def test_a_brush_with_literal_runs():
    """Label Studio writes neighboring values that differ as they are, ours writes runs of equal values alone."""
    values = [0, 0, 0, 255, 9, 9, 9, 0]  # RGBA of two pixels
    head = f"{8:032b}{7:05b}" + f"{3:04b}" * 4  # 8 values of 8 bits; run lengths of 4 bits
    bits = head + f"0{0:02b}{7:04b}" + "".join(f"{value:08b}" for value in values)
    packed = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert decode_brush(packed, 2, 1).tolist() == [[True, False]]
    with pytest.raises(ValueError, match="does not unpack to 2 x 1 pixels"):
        decode_brush(packed[:-2], 2, 1)


# --- what is refused ----------------------------------------------------------------------------------------


def _two_formats(folder: Path) -> None:
    shutil.copytree(FIXTURES / "labelme", folder, dirs_exist_ok=True)
    shutil.copy(FIXTURES / "datumaro_cvat" / "default.xml", folder)


def _json(content: Any) -> Any:
    def write(folder: Path) -> None:
        save_photo(folder / "a.png", 80, 60)
        (folder / "a.json").write_text(json.dumps(content))

    return write


def _xml(text: str) -> Any:
    return lambda folder: (folder / "a.xml").write_text(text)


def _one_name(folder: Path) -> None:
    yolo_folder("0 0 0 1 0 1 1")(folder)
    save_photo(folder / "images" / "a.png", seed=1)


def _tasks(image: str, number: Any = "x", kind: Any = "polygonlabels") -> Any:
    value = {"polygonlabels": ["mug"], "points": [[1, 1], [9, 1]]}
    result = [{"id": number, "type": kind, "value": value}]
    return _json([{"id": 7, "data": {"image": image}, "annotations": [{"result": result}]}])


def _without_photo(folder: Path) -> None:
    shutil.copytree(FIXTURES / "supervision_yolo", folder, dirs_exist_ok=True)
    (folder / "images" / "one.jpg").unlink()


def _ambiguous(folder: Path) -> None:
    for place in ("x", "y"):
        save_photo(folder / place / "a.png", seed=ord(place))
    content = {"shapes": [shape("circle", (9, 9), (9, 5))], "imagePath": "a.png"}
    (folder / "a.json").write_text(json.dumps(content))


def _twice(folder: Path) -> None:
    for name in ("via_a.json", "via_b.json"):
        save_via(folder, via_entry("0.jpg", TRIANGLE, kind="mug"), name=name)


BAD: list[tuple[Any, str]] = [
    (lambda f: save_photo(f / "a.png"), "holds no annotations of a known format (via, coco, labelme,"),
    (_two_formats, "choose one with --format"),
    (_without_photo, "labels/one.txt has no photo of the same name"),
    (_ambiguous, "which fits several photos (x/a.png, y/a.png)"),
    (
        lambda f: cvat_file(f, "<points/>", 'name="a.heic" width="1" height="1"'),
        "which is none of .jpg, .jpeg, .png",
    ),
    (_twice, "0.jpg is annotated in two places"),
    (yolo_folder("3 0 0 1 0 1 1"), "line 1 of {}/images/a.jpg has class 3, which"),
    (yolo_folder("0 0.5 0.5 0.1 0.1"), "has only a box"),
    (yolo_folder("0 0.1 nan 0.2 0.2 0.3 0.1"), "has the coordinate 'nan', which is not a finite number"),
    (yolo_folder("0 1.1 1.1 1.2 1.1 1.2 1.2"), "lies outside the image"),
    (yolo_folder("0 0.1 0.1 0.2 0.2 0.3"), "has 5 coordinates"),
    (yolo_folder("mug 0.1 0.1 0.2 0.2 0.3 0.3"), "begins with 'mug'"),
    (yolo_folder("", "names: mug"), "names in data.yaml is no list of class names"),
    (yolo_folder("9" * 5000 + " 0 0 1 0 1 1"), "which data.yaml does not name"),
    (yolo_folder("", "names: [mug, mug]"), "names a class twice"),
    (_one_name, "labels/a.txt fits several photos (images/a.jpg, images/a.png)"),
    (
        lambda f: labelme_file(f, {**shape("polygon"), "points": [[1, 2, 3]]}),
        "{}/a.png has coordinates that are not",
    ),
    (
        lambda f: labelme_file(f, shape("point", (1, 1))),
        "point 1 of {}/a.png is of the kind 'point', which has no",
    ),
    (lambda f: labelme_file(f, shape("polygon", (1, float("nan")), (2, 2), (3, 1))), "not a finite number"),
    (
        lambda f: labelme_file(f, shape("circle", (20, 20), (20, 30), label=None)),
        "circle 1 of {}/a.png has no class:",
    ),
    (lambda f: labelme_file(f, shape("mask", (1, 1), (2, 2), mask="x")), "not a PNG in base64"),
    (_tasks("http://[x/a.png"), "task 7 of {}/a.json names no photo"),
    (_tasks("a.png", kind=[["x"]]), "holds no annotated object: annotate some"),
    (_tasks("a.png", [1]), "polygon 1 of {}/a.png has 2 different points"),
    (_studio("brush", format="rle", rle=[0, 0, 0, 9, 1]), "brush 1 of {}/a.png has a brush"),
    (
        _json([{"data": {"image": "a.png"}, "annotations": []}]),
        "holds no annotated object; left out: 1 tasks without a submitted annotation (a.png)",
    ),
    (_xml("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations></annotations>"), "declares XML entities"),
    (_xml("<annotations><image>"), "is not valid XML"),
    (_xml("<annotations><track/></annotations>"), "describes a video"),
    (
        _cvat("mask", rle="9", left=1, top=1, width=2, height=2),
        "mask 1 of {}/a.png has an RLE that does not add up",
    ),
    (_cvat("mask", rle="4", left=79, top=1, width=2, height=2), "reaches out of the photo"),
    (
        lambda f: cvat_file(f, '<box xtl="1" ytl="2" xbr="9" ybr="9"/>', 'name="a.png" width="9" height="9"'),
        "has 80x60 pixels but its annotations say 9x9",
    ),
]


@pytest.mark.parametrize(("write", "message"), BAD)
def test_bad_input_is_refused(tmp_path, import_data, write, message):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder)
    assert message.format(folder) in import_data(folder, status=1)
