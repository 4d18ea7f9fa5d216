"""COCO: polygons, both kinds of RLE, categories, EXIF, and what is refused."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune.data.dataset import class_names, load_split
from finetune.data.masks import encode_mask, to_mask
from tests.finetune.data.samples import run, save_photo

SQUARE = [[5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0]]
MASK = np.zeros((30, 40), dtype=bool)
MASK[5:15, 5:15] = True


def coco_file(path: Path, count: int = 5, segmentation: Any = SQUARE, **changes: Any) -> dict[str, Any]:
    """Photos beside a COCO file with one square in each; ids begin anywhere."""
    images, annotations = [], []
    for i in range(count):
        name = f"{path.stem}{i}.png"
        save_photo(path.parent / name, seed=zlib.crc32(name.encode()))
        images.append({"id": 70 + i, "file_name": name, "width": 40, "height": 30})
        one = {"id": i, "image_id": 70 + i, "category_id": (90, 7)[i % 2], "segmentation": segmentation}
        annotations.append(one | {"keypoints": [1, 2, 2]})
    names = {90: "mug", 7: "cup", 8: "unused"}
    categories = [{"id": number, "name": name} for number, name in names.items()]
    data = {"images": images, "categories": categories, "annotations": annotations} | changes
    path.write_text(json.dumps(data))
    return data


def test_categories_become_contiguous_in_the_order_of_their_ids(tmp_path, import_data):
    coco_file(tmp_path / "in.json", 10)
    messages = import_data(tmp_path / "in.json", "--val", 0.2, "--test", 0.2)
    assert "left out: classes without an annotation in train: unused" in messages
    assert "set: train 6, val 2, test 2 photos; classes: cup, mug" in messages
    assert class_names(tmp_path / "set") == ["cup", "mug"]
    for photo in load_split(tmp_path / "set", "train"):
        number = int(Path(photo["file_name"]).stem[2:])
        assert [annotation["category_id"] for annotation in photo["annotations"]] == [1 - number % 2]
    assert run("data", "check", tmp_path / "set") == 0


FLAT = MASK.T.ravel()
RUNS = np.diff(np.flatnonzero(np.concatenate([[True], FLAT[1:] != FLAT[:-1], [True]]))).tolist()


@pytest.mark.parametrize("kind", [SQUARE, encode_mask(MASK), {"size": [30, 40], "counts": RUNS}])
def test_polygons_and_both_kinds_of_rle_are_the_same_mask(tmp_path, import_data, kind):
    coco_file(tmp_path / "in.json", 1, kind)
    import_data(tmp_path / "in.json")
    (annotation,) = load_split(tmp_path / "set", "train")[0]["annotations"]
    assert annotation["bbox"] == [5, 5, 15, 15]
    assert (to_mask(annotation["segmentation"], 40, 30) == MASK).all()


def test_objects_of_several_parts_and_crowds_are_kept(tmp_path, import_data):
    parts = [*SQUARE, [20.0, 20.0, 30.0, 20.0, 30.0, 30.0]]
    annotation = {"id": 1, "image_id": 70, "category_id": 7, "segmentation": parts, "iscrowd": 1}
    coco_file(tmp_path / "in.json", 3, annotations=[annotation])
    import_data(tmp_path / "in.json")
    photos = load_split(tmp_path / "set", "train")
    assert [len(each["annotations"]) for each in photos] == [1, 0, 0]  # those without an object are kept too
    (kept,) = photos[0]["annotations"]
    assert (kept["segmentation"], kept["iscrowd"]) == (parts, 1)


def test_photos_in_a_folder_of_their_own_and_splits_by_file_name(tmp_path, import_data):
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val", "test"):
        coco_file(tmp_path / "photos" / f"{split}.json", 3)
        name = f"instances_{split}2017.json"
        (tmp_path / "photos" / f"{split}.json").rename(tmp_path / "annotations" / name)
    import_data(tmp_path / "annotations", "--images", tmp_path / "photos")
    for split in ("train", "val", "test"):
        names = [Path(photo["file_name"]).name for photo in load_split(tmp_path / "set", split)]
        assert names == [f"{split}{i}.png" for i in range(3)]


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
@pytest.mark.parametrize("as_mask", [False, True])
def test_annotations_of_a_photo_as_stored_are_turned_with_it(tmp_path, import_data, orientation, as_mask):
    """A tool that ignores EXIF data lists the stored size, 40 x 30; the photo is seen 30 x 40."""
    mask = np.zeros((30, 40), dtype=bool)
    mask[3:9, 10:25] = True
    polygon = [10.0, 3.0, 25.0, 3.0, 25.0, 9.0, 10.0, 9.0]
    coco_file(tmp_path / "in.json", 1, encode_mask(mask) if as_mask else [polygon])
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "in0.png", exif=exif)
    import_data(tmp_path / "in.json")
    (photo,) = load_split(tmp_path / "set", "train")
    with Image.open(tmp_path / "in0.png") as image:
        seen = np.asarray(ImageOps.exif_transpose(image)) > 0
    assert (photo["height"], photo["width"]) == seen.shape
    assert (to_mask(photo["annotations"][0]["segmentation"], *seen.shape[::-1]) == seen).all()
    assert run("data", "check", tmp_path / "set") == 0


def _image(**changes: Any) -> dict[str, Any]:
    return {"images": [{"id": 70, "file_name": "in0.png", "width": 40, "height": 30} | changes]}


def _annotation(**changes: Any) -> dict[str, Any]:
    annotation = {"id": 3, "image_id": 70, "category_id": 7, "segmentation": SQUARE} | changes
    return _image() | {"annotations": [annotation]}


def _rle(*size: float, counts: Any = (1200,)) -> dict[str, Any]:
    return _annotation(segmentation={"size": size, "counts": counts})


NO_RLE = "neither a list of polygons nor an RLE"
BAD: list[tuple[dict[str, Any], str]] = [
    ({"images": {}}, "holds no COCO file: it needs the lists"),
    ({"images": [3]}, "is not a COCO file"),
    ({"categories": []}, "has category 90, which is not listed (listed: none)"),
    ({"categories": [{"id": 1}]}, "this category has no id or no name"),
    ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "lists the category 1 'b' twice"),
    ({"images": [{"id": 1}]}, "this image has no id or no file_name"),
    ({"images": [{"id": 1, "file_name": "x"}, {"id": 2, "file_name": "x"}]}, "lists the image 2 'x' twice"),
    ({"images": [], "annotations": []}, "holds no annotated object"),
    ({"annotations": []}, "holds no annotated object"),
    (
        _annotation(category_id=5),
        "annotation 3 of {}/in.json has category 5, which is not listed (listed: 7 cup, 8",
    ),
    (_annotation(category_id=[]), "has category [], which is not listed"),
    (_annotation(image_id=1), "belongs to image 1, which is not listed"),
    (_annotation(segmentation=[]), "annotation 3 of {}/in0.png has no segmentation"),
    (_annotation(segmentation=[1, 1, 5, 5, 1, 5]), "not numbers in pairs"),
    (_annotation(segmentation="x"), NO_RLE),
    (_annotation(segmentation={"size": [30, 40]}), NO_RLE),
    (_rle(float("inf"), 40), NO_RLE),
    (_rle(30), "has an RLE of 30 pixels but the image is 40 x 30"),
    (_rle(40, 30), "has an RLE of 30 x 40 pixels but the image is 40 x 30"),
    (_rle(30, 40, counts=[12]), "do not add up"),
    (_rle(30, 40, counts="zzz"), "do not unpack"),
    (_rle(30, 40), "has an empty mask"),
    (_annotation() | _image(width=41), "has 40x30 pixels but its annotations say 41x30"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_files_are_refused(tmp_path, import_data, changes, message):
    coco_file(tmp_path / "in.json", 2, **changes)
    assert message.format(tmp_path) in import_data(tmp_path / "in.json", "--format", "coco", status=1)
