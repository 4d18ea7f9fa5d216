"""`data coco`: polygons, both kinds of RLE, categories, EXIF, and what is refused."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from finetune.data.conversion import turn_mask, turn_polygon
from finetune.data.dataset import class_names, load_split
from finetune.data.masks import encode_mask
from tests.finetune.data.samples import nothing_left, run, run_import, save_photo

SQUARE = [[5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0]]


def coco_file(path: Path, count: int = 5, segmentation: Any = SQUARE, **changes: Any) -> dict[str, Any]:
    """Photos beside a COCO file with one square in each; ids begin anywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{path.stem}{i}.png" for i in range(count)]
    for i, name in enumerate(names):
        save_photo(path.parent / name, seed=zlib.crc32(f"{path.name}{i}".encode()))
    data = {
        "images": [
            {"id": 70 + i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)
        ],
        "categories": [{"id": 90, "name": "mug"}, {"id": 7, "name": "cup"}, {"id": 8, "name": "unused"}],
        "annotations": [
            {
                "id": i,
                "image_id": 70 + i,
                "category_id": (90, 7)[i % 2],
                "segmentation": segmentation,
                "keypoints": [1, 2, 2],
            }
            for i in range(count)
        ],
    } | changes
    path.write_text(json.dumps(data))
    return data


def convert(folder: Path, root: Path, *options: object) -> int:
    return run_import(folder, "--root", root, *options, format="coco")


WHOLE = ("--val", 0, "--test", 0)


def test_categories_become_contiguous_in_the_order_of_their_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco_file(tmp_path / "in" / "a.json", 10)
    assert convert(tmp_path / "in", tmp_path / "set") == 0
    out = capsys.readouterr().err
    assert "left out: classes without an annotation in train: unused" in out
    assert "set: train 6, val 2, test 2 photos; classes: cup, mug" in out
    assert class_names(tmp_path / "set") == ["cup", "mug"]
    for photo in load_split(tmp_path / "set", "train"):
        number = int(Path(photo["file_name"]).stem[1:])
        assert [annotation["category_id"] for annotation in photo["annotations"]] == [1 - number % 2]
    assert run("data", "check", tmp_path / "set") == 0


def test_polygons_and_both_kinds_of_rle_are_the_same_mask(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:15, 5:15] = True
    flat = mask.T.ravel()
    runs = np.diff(np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1], [True]]))).tolist()
    kinds = [SQUARE, encode_mask(mask), {"size": [30, 40], "counts": runs}]
    for number, segmentation in enumerate(kinds):
        coco_file(tmp_path / str(number) / "a.json", 1, segmentation)
        assert convert(tmp_path / str(number), tmp_path / f"set{number}", *WHOLE) == 0
        (annotation,) = load_split(tmp_path / f"set{number}", "train")[0]["annotations"]
        assert annotation["bbox"] == [5, 5, 15, 15]
        if number:
            assert (coco_mask.decode(annotation["segmentation"]) == mask).all()


def test_objects_of_several_parts_and_crowds_are_kept(tmp_path: Path) -> None:
    parts = [*SQUARE, [20.0, 20.0, 30.0, 20.0, 30.0, 30.0]]
    annotation = {"id": 1, "image_id": 70, "category_id": 7, "segmentation": parts, "iscrowd": 1}
    coco_file(tmp_path / "in" / "a.json", 1, annotations=[annotation])
    assert convert(tmp_path / "in", tmp_path / "set", *WHOLE) == 0
    (kept,) = load_split(tmp_path / "set", "train")[0]["annotations"]
    assert kept["segmentation"] == parts
    assert kept["iscrowd"] == 1


def test_photos_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        coco_file(tmp_path / "photos" / f"instances_{split}.json", 3)
        (tmp_path / "photos" / f"instances_{split}.json").rename(tmp_path / f"{split}.json")
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.json").rename(tmp_path / "annotations" / f"instances_{split}2017.json")
    command = ("data", "import", tmp_path / "annotations", "--images", tmp_path / "photos")
    assert run(*command, "--root", tmp_path / "set") == 0
    for split in ("train", "val", "test"):
        names = [Path(photo["file_name"]).name for photo in load_split(tmp_path / "set", split)]
        assert names == [f"instances_{split}{i}.png" for i in range(3)]


def test_images_without_annotations_are_kept(tmp_path: Path) -> None:
    data = coco_file(tmp_path / "in" / "a.json", 3)
    coco_file(tmp_path / "in" / "a.json", 3, annotations=data["annotations"][:1])
    assert convert(tmp_path / "in", tmp_path / "set", *WHOLE) == 0
    assert [len(photo["annotations"]) for photo in load_split(tmp_path / "set", "train")] == [1, 0, 0]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_a_photo_as_stored_are_turned_with_it(tmp_path: Path, orientation: int) -> None:
    """A tool that ignores EXIF data lists the stored size, 40 x 30; the photo is seen 30 x 40."""
    from PIL import Image, ImageOps

    mask = np.zeros((30, 40), dtype=bool)
    mask[3:9, 10:25] = True
    polygon = [10.0, 3.0, 25.0, 3.0, 25.0, 9.0, 10.0, 9.0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(mask.astype(np.uint8) * 255)
    for number, segmentation in enumerate(([polygon], encode_mask(mask))):
        folder = tmp_path / str(number)
        coco_file(folder / "a.json", 1, segmentation)
        stored.save(folder / "a0.png", exif=exif)
        assert convert(folder, tmp_path / f"set{number}", *WHOLE) == 0
        (photo,) = load_split(tmp_path / f"set{number}", "train")
        assert (photo["width"], photo["height"]) == (30, 40)
        with Image.open(folder / "a0.png") as image:
            seen = np.asarray(ImageOps.exif_transpose(image)) > 0
        segmentation = photo["annotations"][0]["segmentation"]
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, 40, 30)) if number == 0 else segmentation
        assert (coco_mask.decode(rle) == seen).all()
        assert run("data", "check", tmp_path / f"set{number}") == 0


def test_turning_by_1_changes_nothing() -> None:
    assert turn_polygon([1.0, 2.0, 3.0, 4.0], 40, 30, 1) == [1, 2, 3, 4]
    assert turn_mask(np.eye(3, 4, dtype=bool), 1).tolist() == np.eye(3, 4, dtype=bool).tolist()


def _image(**changes: Any) -> dict[str, Any]:
    return {"images": [{"id": 70, "file_name": "a0.png", "width": 40, "height": 30} | changes]}


def _annotation(**changes: Any) -> dict[str, Any]:
    annotation = {"id": 3, "image_id": 70, "category_id": 7, "segmentation": SQUARE} | changes
    return _image() | {"annotations": [annotation]}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no lists": ({"images": {}}, "holds no COCO file: it needs the lists"),
    "no categories": ({"categories": []}, "has category 90, which is not listed (listed: none)"),
    "category without name": ({"categories": [{"id": 1}]}, "has no id or no name"),
    "category twice": ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "twice"),
    "image without name": ({"images": [{"id": 1}]}, "has no id or no file_name"),
    "image twice": ({"images": [{"id": 1, "file_name": "x"}] * 2}, "twice"),
    "no images": ({"images": [], "annotations": []}, "lists no photos"),
    "no annotations": ({"annotations": []}, "holds no annotations"),
    "unknown category": (
        _annotation(category_id=5),
        "annotation 3 of {}/a.json has category 5, which is not listed (listed: 7 cup, 8 unused, 90 mug)",
    ),
    "category is a list": (_annotation(category_id=[]), "has category [], which is not listed"),
    "unknown image": (_annotation(image_id=1), "belongs to image 1, which is not listed"),
    "no segmentation": (_annotation(segmentation=[]), "annotation 3 of {}/a0.png has no segmentation"),
    "two points": (_annotation(segmentation=[[1, 1, 5, 5]]), "has 2 different points"),
    "flat polygon": (_annotation(segmentation=[1, 1, 5, 5, 1, 5]), "not numbers in pairs"),
    "segmentation is text": (_annotation(segmentation="x"), "neither a list of polygons nor an RLE"),
    "RLE without counts": (
        _annotation(segmentation={"size": [30, 40]}),
        "neither a list of polygons nor an RLE",
    ),
    "RLE of another size": (
        _annotation(segmentation={"size": [40, 30], "counts": [1200]}),
        "has an RLE of 30 x 40 pixels but the image is 40 x 30",
    ),
    "RLE that does not add up": (
        _annotation(segmentation={"size": [30, 40], "counts": [12]}),
        "do not add up",
    ),
    "RLE damaged": (_annotation(segmentation={"size": [30, 40], "counts": "zzz"}), "do not unpack"),
    "RLE empty": (_annotation(segmentation={"size": [30, 40], "counts": [1200]}), "has an empty mask"),
    "missing photo": (
        _image(file_name="b.png") | {"annotations": [{"id": 1, "image_id": 70, "category_id": 7}]},
        "names the photo 'b.png', which is not in",
    ),
    "other size": (_annotation() | _image(width=41), "has 40x30 pixels but its annotations say 41x30"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    changes, message = BAD[case]
    folder = tmp_path / "in"
    coco_file(folder / "a.json", 2, **changes)
    assert convert(folder, tmp_path / "set", *WHOLE) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("Error: ")
    assert message.format(folder) in error
    assert "\n" not in error
    assert nothing_left(tmp_path / "set")


def test_a_class_that_the_training_file_lacks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco_file(tmp_path / "in" / "a.json", 3)
    categories = [{"id": 90, "name": "bowl"}, {"id": 7, "name": "cup"}]
    coco_file(tmp_path / "in" / "val.json", 3, categories=categories)
    assert convert(tmp_path / "in", tmp_path / "set") == 1
    assert "has the class 'bowl'" in capsys.readouterr().err


def test_bad_annotations_can_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coco_file(tmp_path / "in" / "a.json", 3)
    data["annotations"][0]["segmentation"] = [[1, 1, 2, 2]]
    (tmp_path / "in" / "a.json").write_text(json.dumps(data))
    assert convert(tmp_path / "in", tmp_path / "set", *WHOLE, "--skip-bad") == 0
    assert "skipped: annotation 0" in capsys.readouterr().err
    assert [len(photo["annotations"]) for photo in load_split(tmp_path / "set", "train")] == [0, 1, 1]
