"""finetune.data.dataset: what is written is what is read, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from finetune.data.dataset import Instance, Photo, class_names, load_split, write_dataset
from finetune.data.masks import encode_mask
from finetune.errors import UserError
from tests.finetune.data.samples import nothing_left, run, save_photo

MASK = np.zeros((30, 40), dtype=bool)
MASK[10:20, 5:25] = True


def write(root: Path, folder: Path, **changes: object) -> dict:
    """A data set of three photos, one with a polygon, one with an RLE, one with nothing."""
    photos = [save_photo(folder / f"{i}.png", seed=i) for i in range(3)]
    polygon = [[1.0, 2.0, 11.0, 2.0, 11.0, 12.0, 1.0, 12.0]]
    splits = {
        "train": [Photo("a.png", photos[0], 40, 30, [Instance(0, polygon), Instance(1, polygon, True)])],
        "val": [Photo("b.png", photos[1], 40, 30, [Instance(1, encode_mask(MASK))])],
        "test": [Photo("c.png", photos[2], 40, 30)],
    }
    settings = {"name": "things", "classes": ["cup", "mug"], "source": "test", "splits": splits} | changes
    return write_dataset(root, **settings)  # type: ignore[arg-type]


def test_round_trip(tmp_path):
    from detectron2.data.detection_utils import annotations_to_instances
    from detectron2.structures import BoxMode

    root = tmp_path / "set"
    assert write(root, tmp_path)["splits"] == {"train": 1, "val": 1, "test": 1}
    assert class_names(root) == ["cup", "mug"]
    (train,), (val,), (test,) = (load_split(root, split) for split in ("train", "val", "test"))
    assert Path(train["file_name"]).read_bytes() == (tmp_path / "0.png").read_bytes()
    assert (train["height"], train["width"]) == (30, 40)
    cup, mug = train["annotations"]
    assert (cup["bbox"], cup["category_id"], cup["iscrowd"]) == ([1, 2, 11, 12], 0, 0)
    assert cup["bbox_mode"] == BoxMode.XYXY_ABS
    assert (mug["category_id"], mug["iscrowd"]) == (1, 1)
    assert val["annotations"][0]["bbox"] == [5, 10, 25, 20]
    assert test["annotations"] == []
    assert len({train["image_id"], val["image_id"], test["image_id"]}) == 3
    for photo, area in ((val, MASK.sum()), (train, 100)):  # Detectron2 reads polygons and RLE as bitmasks
        instances = annotations_to_instances(photo["annotations"], (30, 40), mask_format="bitmask")
        assert instances.gt_masks.tensor[0].sum() == area


def test_the_files_are_coco_as_pycocotools_reads_it(tmp_path, capsys):
    from pycocotools.coco import COCO

    write(tmp_path / "set", tmp_path)
    coco = COCO(tmp_path / "set" / "val.json")
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    assert annotation["area"] == MASK.sum()
    assert (coco.annToMask(annotation) == MASK).all()


def test_names_from_strangers_stay_inside_and_apart(tmp_path):
    names = ["x/a.png", "x_a.png", "X_A.PNG", "../../b c.png", "..", ".hidden.png"]
    photos = [Photo(name, save_photo(tmp_path / f"{i}.png", seed=i), 40, 30) for i, name in enumerate(names)]
    write_dataset(tmp_path / "set", name="n", classes=["c"], source="s", splits={"train": photos})
    files = sorted(path.name for path in (tmp_path / "set" / "images").iterdir())
    assert len(files) == len(names)
    assert not any(name.startswith(".") or "/" in name for name in files)


class Interrupted:
    """Photos during which Ctrl-C is pressed."""

    def __iter__(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": []}, "no classes"),
        ({"splits": {"train": []}}, "no photos to train on"),
        ({"splits": {"train": [Photo("a.png", Path("nowhere.png"), 1, 1)]}}, "nowhere.png is missing"),
        ({"splits": {"train": Interrupted()}}, None),
    ],
)
def test_a_failure_leaves_nothing_behind_and_keeps_the_old_one(tmp_path, changes, message):
    root = tmp_path / "set"
    with pytest.raises((UserError, KeyboardInterrupt), match=message):
        write(root, tmp_path, **changes)
    assert nothing_left(root)
    write(root, tmp_path)
    with pytest.raises((UserError, KeyboardInterrupt)):
        write(root, tmp_path, **changes)
    assert len(load_split(root, "train")) == 1


def test_other_files_are_never_replaced(tmp_path):
    save_photo(tmp_path / "set" / "precious.png")
    with pytest.raises(UserError, match="holds other files"):
        write(tmp_path / "set", tmp_path)
    assert run("data", "synthetic", "--root", tmp_path / "set", "--images", 3, "--force") == 1
    assert (tmp_path / "set" / "precious.png").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"categories": [{"id": 1, "name": "bowl"}]},
            r"the class 'bowl' that dataset.json lacks \(cup, mug\)",
        ),
        ({"images": [{}]}, "run `maskrcnn data check"),
        ("{", "not valid JSON"),
        ({"images": [], "annotations": [], "categories": []}, "has no photos"),
        (None, "no split 'train': choose one of: val, test"),
    ],
)
def test_reading_says_what_is_wrong(tmp_path, content, message):
    write(tmp_path / "set", tmp_path)
    path = tmp_path / "set" / "train.json"
    path.write_text(
        content if isinstance(content, str) else json.dumps(content)
    ) if content else path.unlink()
    with pytest.raises(UserError, match=message):
        load_split(tmp_path / "set", "train")
    with pytest.raises(UserError, match="holds no data set"):
        load_split(tmp_path / "nowhere", "train")
