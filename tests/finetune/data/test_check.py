"""`data check`: finds what would break training or falsify its numbers, and says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.finetune.data.conftest import Check
from tests.finetune.data.samples import run, run_import, save_photo, via_folder

Coco = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound data set: 3 training photos, 1 for val, 1 for test."""
    folder = via_folder(tmp_path / "photos", 5)
    assert run_import(folder, "--class", "mug", "--root", tmp_path / "set") == 0
    return tmp_path / "set"


def edit(root: Path, change: Callable[[Coco], object], name: str = "train.json") -> None:
    coco = json.loads((root / name).read_text())
    change(coco)
    (root / name).write_text(json.dumps(coco))


def words(text: str) -> str:
    """The words of a text, one space apart, whatever the widths of a table's columns."""
    return " ".join(text.split())


def add_photo(root: Path, coco: Coco, name: str) -> None:
    """List a copy of the first photo, under a name of its own and without objects."""
    first = coco["images"][0]
    shutil.copy(root / first["file_name"], root / name)
    coco["images"].append({**first, "id": name, "file_name": name})


def test_a_sound_one(root: Path, check: Check) -> None:
    out = check(root)
    assert "train 3 0 3 3 0 0 0" in words(out)
    assert "mug 3 1 1" in words(out)
    assert out.endswith(f"0 errors, 1 warnings\n{root}\n")
    assert "warning: only 3 objects of class 'mug' in train: annotate at least 10" in out


def _annotation(**changes: Any) -> Callable[[Coco], object]:
    return lambda coco: coco["annotations"][0].update(changes)


def _image(**changes: Any) -> Callable[[Coco], object]:
    return lambda coco: coco["images"][0].update(changes)


EDITS: dict[str, tuple[Callable[[Coco], object], str]] = {
    "two points": (
        _annotation(segmentation=[[1, 1, 5, 5]]),
        "has 2 different points and needs at least 3",
    ),
    "no area": (_annotation(segmentation=[[1, 1, 5, 5, 9, 9]]), "has no area inside the image"),
    "outside": (
        _annotation(segmentation=[[50, 1, 60, 1, 60, 9]]),
        "lies outside the image (40 x 30)",
    ),
    "words": (_annotation(segmentation=[["a"]]), "not numbers in pairs"),
    "nan": (_annotation(segmentation=[[1, 1, float("nan"), 5, 9, 1]]), "infinite or no numbers"),
    "nothing": (_annotation(segmentation=[]), "has no segmentation"),
    "empty RLE": (_annotation(segmentation={"size": [30, 40], "counts": [1200]}), "has an empty mask"),
    "broken RLE": (_annotation(segmentation={"size": [30, 40], "counts": "x"}), "do not unpack"),
    "no box": (_annotation(bbox=None), "has no box of four numbers"),
    "flat box": (_annotation(bbox=[1, 1, 0, 5]), "has a box of no size"),
    "no area given": (_annotation(area=None), "has no area"),
    "unknown image": (_annotation(image_id=99), "belongs to image 99, which is not listed"),
    "unknown category": (_annotation(category_id=9), "has category 9, which is not listed"),
    "unknown class": (
        lambda coco: coco["categories"].append({"id": 2, "name": "cup"}),
        "has the class 'cup' that dataset.json lacks",
    ),
    "annotation id twice": (_annotation(id=2), "annotation id 2 is used 2 times"),
    "image id twice": (_image(id=2), "lists the image 2 'images/"),
    "image id of another split": (
        lambda coco: (_image(id=4)(coco), _annotation(image_id=4)(coco)),
        "have one image id, 4: change one",
    ),
    "missing file": (_image(file_name="images/none.jpg"), "none.jpg is missing"),
    "leads out": (_image(file_name="../photos/0.jpg"), "outside"),
    "other size": (_image(width=41), "says 41x30 pixels for images/"),
    "no lists": (lambda coco: coco.pop("images"), "it needs the lists images"),
    "damaged": (_image(width="wide"), "has no width and height of images/"),
    "infinite": (_image(width=float("inf")), "has no width and height of images/"),
    "no photos": (lambda coco: coco.update(images=[], annotations=[]), "train has no photos"),
}


@pytest.mark.parametrize("case", EDITS)
def test_errors_are_told_one_a_line(root: Path, check: Check, case: str) -> None:
    change, message = EDITS[case]
    edit(root, change)
    errors = [line for line in check(root, status=1).splitlines() if line.startswith("error: ")]
    assert any(message in line for line in errors)


def test_all_errors_are_told_at_once(root: Path, check: Check) -> None:
    edit(root, lambda coco: [annotation.update(segmentation=[]) for annotation in coco["annotations"]])
    edit(root, _annotation(bbox=None), "val.json")
    assert "6 errors" in check(root, status=1)  # two of them: train and val have no object left


def test_a_truncated_photo(root: Path, check: Check) -> None:
    photo = next((root / "images").iterdir())
    save_photo(photo, 200, 200)
    photo.write_bytes(photo.read_bytes()[:-500])
    assert f"{photo} cannot be read (image file is truncated" in check(root, status=1)


def test_the_same_photo_in_two_splits_is_an_error_in_one_a_warning(root: Path, check: Check) -> None:
    def files(name: str) -> list[str]:
        return [image["file_name"] for image in json.loads((root / name).read_text())["images"]]

    first, second, _ = files("train.json")
    shutil.copy(root / first, root / second)
    assert f"warning: {second} and {first} in train are the same photo" in check(root)
    (other,) = files("test.json")
    shutil.copy(root / first, root / other)
    assert f"error: {other} in test and {first} in train are the same photo" in check(root, status=1)


def test_warnings_do_not_fail(root: Path, check: Check) -> None:
    edit(root, _annotation(segmentation=[[5, 5, 43, 5, 5, 20]]))
    edit(root, lambda coco: add_photo(root, coco, "images/more.jpg"), "val.json")
    edit(root, lambda card: card["splits"].update(train=7), "dataset.json")
    (root / "test.json").unlink()
    out = check(root)
    assert "reaches 3.0 pixels out of the image" in out
    assert "note: 1 of 2 photos in val show no object" in out
    assert "dataset.json counts 7 photos in train" in out
    assert "there is no test.json" in out
    assert "0 errors, 6 warnings" in out


def test_crowds_are_not_counted_and_a_split_of_crowds_is_an_error(root: Path, check: Check) -> None:
    edit(root, lambda coco: [each.update(iscrowd=1) for each in coco["annotations"]])
    out = check(root, status=1)
    assert "train 3 0 0 0 0 0 3" in words(out)
    assert "error: train has no object that training sees (3 are marked iscrowd)" in out


def test_photos_that_look_alike_in_two_splits_are_named(root: Path, check: Check) -> None:
    names = [
        json.loads((root / f"{split}.json").read_text())["images"][0]["file_name"]
        for split in ("train", "test")
    ]
    with Image.open(root / names[0]) as image:
        image.save(root / names[1], quality=60)  # the same picture in another file
    assert f"warning: {names[0]} in train and {names[1]} in test look alike" in check(root)


def test_a_rare_class_is_named_with_what_sampling_would_do(root: Path, check: Check) -> None:
    def change(coco: Coco) -> None:
        coco["categories"].append({"id": 2, "name": "cup"})
        for i in range(17):
            add_photo(root, coco, f"images/copy{i}.jpg")
        coco["annotations"][0]["category_id"] = 2

    edit(root, change)
    edit(root, lambda card: card["classes"].append("cup"), "dataset.json")
    message = (
        "class 'cup' is in 5% of the train photos: training with FINETUNE.REPEAT_THRESHOLD 0.1 shows them 1.4"
    )
    assert message in check(root)


def test_a_class_that_is_never_seen_in_training(root: Path, check: Check) -> None:
    edit(root, lambda card: card["classes"].append("cup"), "dataset.json")
    assert "no object of class 'cup' in train" in check(root)


@pytest.mark.parametrize(
    "card", ["{", "[]", '{"classes": []}', '{"classes": [1]}', '{"classes": ["a", "a"]}']
)
def test_no_data_set(root: Path, capsys: pytest.CaptureFixture[str], card: str) -> None:
    (root / "dataset.json").write_text(card)
    assert run("data", "check", root) == 1
    assert capsys.readouterr().err.startswith("Error: ")
    assert run("data", "check", root / "nowhere") == 1
    assert "holds no data set" in capsys.readouterr().err
