"""`data check`: finds what would break training or falsify its numbers, and says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


def names_in(root: Path, split: str) -> list[str]:
    return [image["file_name"] for image in json.loads((root / f"{split}.json").read_text())["images"]]


def words(text: str) -> str:
    """The words of a text, one space apart, whatever the widths of a table's columns."""
    return " ".join(text.split())


def add_photo(root: Path, coco: Coco, name: str) -> None:
    """List a copy of the first photo, under a name of its own and without objects."""
    first = coco["images"][0]
    shutil.copy(root / first["file_name"], root / name)
    coco["images"].append({**first, "id": name, "file_name": name})


def test_a_sound_one(root, check):
    out = check(root)
    assert "train 3 0 3 3 0 0 0" in words(out)
    assert "mug 3 1 1" in words(out)
    assert out.endswith(f"0 errors, 1 warnings\n{root}\n")
    assert "warning: only 3 objects of class 'mug' in train: annotate at least 10" in out


def _annotation(**changes: Any) -> Callable[[Coco], object]:
    return lambda coco: coco["annotations"][0].update(changes)


def _image(**changes: Any) -> Callable[[Coco], object]:
    return lambda coco: coco["images"][0].update(changes)


def _class(coco: Coco) -> None:
    coco["categories"].append({"id": 2, "name": "cup"})


EDITS: dict[str, Callable[[Coco], object]] = {
    "has 2 different points and needs at least 3": _annotation(segmentation=[[1, 1, 5, 5]]),
    "has no segmentation": _annotation(segmentation=[]),
    "has an empty mask": _annotation(segmentation={"size": [30, 40], "counts": [1200]}),
    "do not unpack": _annotation(segmentation={"size": [30, 40], "counts": "x"}),
    "has no box (": _annotation(bbox=None),
    "of a size above 0": _annotation(bbox=[1, 1, 0, 5]),
    "has the class 'cup' that dataset.json lacks": _class,
    "lists the image 2 'images/": _image(id=2),
    "none.jpg is missing": _image(file_name="images/none.jpg"),
    "outside": _image(file_name="../photos/0.jpg"),
    "says 41x30 pixels for images/": _image(width=41),
    "has no width and height of images/": _image(width=float("inf")),
    "train has no photos": lambda coco: coco.update(images=[], annotations=[]),
}


@pytest.mark.parametrize("message", EDITS)
def test_errors_are_told_one_a_line(root, check, message):
    edit(root, EDITS[message])
    errors = [line for line in check(root, status=1).splitlines() if line.startswith("error: ")]
    assert any(message in line for line in errors)


def test_all_errors_are_told_at_once(root, check):
    edit(root, lambda coco: [annotation.update(segmentation=[]) for annotation in coco["annotations"]])
    edit(root, _annotation(bbox=None), "val.json")
    photo = root / names_in(root, "test")[0]
    save_photo(photo, 200, 200)
    photo.write_bytes(photo.read_bytes()[:-500])
    out = check(root, status=1)
    assert f"{photo} cannot be read (image file is truncated" in out
    assert "7 errors" in out  # two of them: train and val have no object left


def test_the_same_photo_in_two_splits_is_an_error_in_one_a_warning(root, check):
    first, second, _ = names_in(root, "train")
    shutil.copy(root / first, root / second)
    assert f"warning: {second} in train and {first} in train are the same photo" in check(root)
    (other,) = names_in(root, "test")
    shutil.copy(root / first, root / other)
    assert f"error: {other} in test and {first} in train are the same photo" in check(root, status=1)


def test_warnings_do_not_fail(root, check):
    edit(root, _annotation(segmentation=[[5, 5, 43, 5, 5, 20]]))
    edit(root, lambda coco: add_photo(root, coco, "images/more.jpg"), "val.json")
    edit(root, lambda card: card["classes"].append("cup"), "dataset.json")
    train, val = names_in(root, "train")[0], names_in(root, "val")[0]
    (root / val).write_bytes((root / train).read_bytes() + b"bytes after the end of a JPEG")
    (root / "test.json").unlink()
    out = check(root)
    for message in (
        "reaches 3.0 pixels out of the image",
        "note: 1 of 2 photos in val show no object",
        "only 0 objects of class 'cup' in train",
        "there is no test.json",
        f"warning: {train} in train and {val} in val look alike",
        "0 errors, 5 warnings",
    ):
        assert message in out


def test_crowds_are_not_counted_and_a_split_of_crowds_is_an_error(root, check):
    edit(root, lambda coco: [each.update(iscrowd=1) for each in coco["annotations"]])
    out = check(root, status=1)
    assert "train 3 0 0 0 0 0 3" in words(out)
    assert "error: train has no object that training sees (3 are crowds)" in out


def test_a_rare_class_is_named_with_what_sampling_would_do(root, check):
    def change(coco: Coco) -> None:
        _class(coco)
        for i in range(17):
            add_photo(root, coco, f"images/copy{i}.jpg")
        coco["annotations"][0]["category_id"] = 2

    edit(root, change)
    edit(root, lambda card: card["classes"].append("cup"), "dataset.json")
    message = "is in 5% of the train photos: training with FINETUNE.REPEAT_THRESHOLD 0.1 shows them 1.4"
    assert f"class 'cup' {message}" in check(root)


@pytest.mark.parametrize(
    "card", ["{", "[]", '{"classes": []}', '{"classes": [1]}', '{"classes": ["a", "a"]}', None]
)
def test_no_data_set(root, capsys, card):
    (root / "dataset.json").write_text(card) if card else (root / "dataset.json").unlink()
    assert run("data", "check", root) == 1
    assert capsys.readouterr().err.startswith("Error: ")
