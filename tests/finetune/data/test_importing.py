"""`data import`: where annotations and photos are found, zips, splits, groups, negatives and crowds."""

import json
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from finetune.data.dataset import class_names, read_photos, splits_of
from finetune.data.importing import unpack
from finetune.data.masks import encode_mask
from finetune.errors import UserError
from tests.finetune.data.samples import (
    FIXTURES,
    TRIANGLE,
    cvat_file,
    run,
    save_photo,
    save_via,
    via_entry,
    via_folder,
    yolo_folder,
)


def counts(root: Path) -> dict[str, int]:
    return {split: len(read_photos(root, split)) for split in splits_of(root)}


def split_of_photos(root: Path) -> dict[str, str]:
    return {photo.name: split for split in splits_of(root) for photo in read_photos(root, split)}


# --- where things are ---------------------------------------------------------------------------------------


def test_a_zip_with_a_folder_inside(tmp_path, import_data):
    import_data(shutil.make_archive(str(tmp_path / "export"), "zip", FIXTURES, "labelme"))
    assert counts(tmp_path / "set") == {"train": 3}
    cvat_file(tmp_path / "in" / "deep", '<points label="mug"/>')
    archive = shutil.make_archive(str(tmp_path / "bad"), "zip", tmp_path / "in")
    message = import_data(archive, root="other", status=1)
    assert f"points 1 of {archive}/deep/a.png is of the kind 'points'" in message


def test_one_annotation_file_and_the_photos_elsewhere(tmp_path, import_data):
    file = save_via(tmp_path / "photos", via_entry("a.jpg", TRIANGLE, kind="mug"))
    file = file.rename(tmp_path / "mugs.json")
    import_data(file, "--images", tmp_path / "photos")
    assert counts(tmp_path / "set") == {"train": 1}
    message = import_data(file, "--images", tmp_path / "nowhere", status=1, root="other")
    assert "nowhere is not there" in message
    message = import_data(FIXTURES / "supervision_yolo" / "data.yaml", status=1, root="other")
    assert "is neither a folder, a zip nor a JSON or XML file" in message


def test_roboflow_s_yolo_folders(tmp_path, import_data):
    for split in ("train", "valid"):
        yolo_folder("0 0.1 0.1 0.9 0.1 0.9 0.9\n")(tmp_path / "in" / split)
        (tmp_path / "in" / split / "data.yaml").unlink()
        save_photo(tmp_path / "in" / split / "images" / "a.jpg", seed=len(split))
    text = "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['mug']\n"
    (tmp_path / "in" / "data.yaml").write_text(text)
    import_data(tmp_path / "in")
    assert split_of_photos(tmp_path / "set") == {"train_images_a.jpg": "train", "valid_images_a.jpg": "val"}


def test_labels_beside_their_photos_and_a_list_of_photos(tmp_path, import_data):
    """As labelImg-like tools write them: no data.yaml, and a name that begins like a split; in a folder "labels"."""
    folder = tmp_path / "labels"
    save_photo(folder / "test1.JPG")
    files = {"test1": "1 0.1 0.1 0.9 0.1 0.9 0.9\n", "classes": "cup\nmug\n", "train": "test1.JPG\n"}
    for name, text in (files | {"README.roboflow": "text\n"}).items():
        (folder / f"{name}.txt").write_text(text)
    import_data(folder)
    assert class_names(tmp_path / "set") == ["mug"]


def test_a_zip_may_not_write_outside_nor_link_there(tmp_path):
    names = ["../evil.txt", str(tmp_path / "evil.txt"), "..\\evil.txt", "C:/evil.txt", "a/../../evil.txt"]
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
        zipped.writestr("train\\a.txt", b"as some tools for Windows write it")
        for name in names:
            zipped.writestr(name, b"evil")
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "evil.zip", tmp_path / "out")
    every = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in every if tmp_path / "out" not in path.parents] == ["evil.zip"]
    assert not any(path.is_symlink() for path in every)
    assert (tmp_path / "out" / "train" / "a.txt").is_file()


def test_a_zip_may_not_swell(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.data.importing.FREE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zeros", bytes(10_000_000))
    with pytest.raises(UserError, match="unpacks to 1 files of 10,000,000 bytes, more than"):
        unpack(tmp_path / "bomb.zip", tmp_path)
    assert not (tmp_path / "zeros").exists()


# --- splits and groups --------------------------------------------------------------------------------------


def test_files_of_two_annotators_folders_as_splits_and_a_split_that_is_drawn(tmp_path, import_data):
    for split in ("train", "val"):
        via_folder(tmp_path / "in" / split, 4)
    save_via(tmp_path / "in" / "train", via_entry("x.jpg", TRIANGLE), name="via_second.json")
    save_photo(tmp_path / "in" / "test" / "later.jpg", seed=77)
    messages = import_data(tmp_path / "in", "--class", "mug", "--test", 0.2)
    assert "left out: 1 photos without annotations (test/later.jpg)" in messages
    assert counts(tmp_path / "set") == {"train": 4, "val": 4, "test": 1}


def test_the_split_is_reproducible_and_moved_by_the_seed(tmp_path, import_data):
    folder = via_folder(tmp_path / "in", 12)
    for root, seed in (("a", 1), ("b", 1), ("c", 2)):
        import_data(folder, "--class", "mug", "--val", 0.2, "--seed", seed, root=root)
    first, second, third = (split_of_photos(tmp_path / root) for root in "abc")
    assert first == second != third


def test_a_class_that_training_lacks_is_named(tmp_path, import_data):
    for split, kind in (("train", "cup"), ("val", "bowl")):
        via_folder(tmp_path / "in" / split, 2, kind=kind)
    message = import_data(tmp_path / "in", "--class-attribute", "kind", status=1)
    assert "has the class 'bowl', which no training photo has" in message


def test_a_group_in_two_splits_is_refused(tmp_path, import_data):
    for split in ("train", "val"):
        via_folder(tmp_path / "in" / split, 2, kind="mug")
    message = import_data(tmp_path / "in", "--group-by", r"(\d)\.jpg", status=1)
    assert "the group '0' lies in train and in val" in message
    assert "is not a regular expression" in import_data(tmp_path / "in", "--group-by", "(", status=1)


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    """A folder of five photos that show no object."""
    for i in range(5):
        save_photo(tmp_path / "nothing" / f"n{i}.jpg", seed=100 + i)
    return tmp_path / "nothing"


@pytest.mark.parametrize("rule", ["(film\\d)", "folder"])
def test_negatives_join_the_splits_and_groups_stay_together(tmp_path, import_data, nothing, rule):
    for film in range(6):
        via_folder(tmp_path / "in" / f"film{film}", 3, kind="mug")
    options = ("--group-by", rule, "--val", 0.2, "--test", 0.2)
    import_data(tmp_path / "in", "--negatives", nothing, *options)
    places: dict[str, set[str]] = {}
    for name, split in split_of_photos(tmp_path / "set").items():
        places.setdefault(name[:5] if name.startswith("film") else name, set()).add(split)
    assert places.keys() == {f"film{i}" for i in range(6)} | {f"n{i}.jpg" for i in range(5)}
    assert all(len(splits) == 1 for splits in places.values())
    train = read_photos(tmp_path / "set", "train")
    groups = {photo.name: photo.group for photo in train if photo.name.startswith("film")}
    assert groups == {name: name[:5] for name in groups}, "for train --folds"


def test_negatives_are_spread_over_splits_that_folders_give(tmp_path, import_data, nothing):
    for split in ("train", "val"):
        via_folder(tmp_path / "in" / split, 4, kind="mug")
    import_data(tmp_path / "in", "--negatives", nothing, "--val", 0.4)
    assert counts(tmp_path / "set") == {"train": 4 + 3, "val": 4 + 2}


# --- crowds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("crowd", "trained"), [("auto", 7), ("object", 7), ("keep", 0)])
def test_crowds_of_cvat(tmp_path, import_data, crowd, trained):
    messages = import_data(FIXTURES / "datumaro_coco", "--crowd", crowd)
    assert f"{'' if trained else 'not '}trained on: 7 objects marked iscrowd" in messages
    instances = [each for photo in read_photos(tmp_path / "set", "train") for each in photo.instances]
    assert [len(instances), sum(not each.iscrowd for each in instances)] == [7, trained]
    assert run("data", "check", tmp_path / "set") == (0 if trained else 1)


def test_a_real_crowd_stays_one(tmp_path, import_data):
    mask = np.zeros((30, 40), dtype=bool)
    mask[2:8, 2:8] = mask[20:25, 20:30] = True
    save_photo(tmp_path / "in" / "a.png")
    one = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": encode_mask(mask), "iscrowd": 1}
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "mug"}]}
    (tmp_path / "in" / "a.json").write_text(json.dumps(content | {"annotations": [one]}))
    assert "not trained on: 1 objects marked iscrowd" in import_data(tmp_path / "in")
    assert run("data", "check", tmp_path / "set") == 1


# --- again --------------------------------------------------------------------------------------------------


def test_the_same_command_again_does_nothing_another_one_is_refused(tmp_path, import_data, nothing, capsys):
    folder, card = via_folder(tmp_path / "in", 5), tmp_path / "set" / "dataset.json"
    options = ("--negatives", nothing, "--class")
    import_data(folder, *options, "mug")
    before = card.stat().st_mtime_ns
    assert "is up to date" in import_data(folder, *options, "mug")
    assert card.stat().st_mtime_ns == before
    command = ("data", "import", folder, "--root", tmp_path / "set", "--val", 0, "--test", 0, *options)
    assert run(*command, "cup") == 1
    save_photo(nothing / "more.jpg", seed=92)
    assert run(*command, "mug") == 1
    assert capsys.readouterr().err.count("holds another data set") == 2
    import_data(folder, *options, "cup", "--force")
    assert class_names(tmp_path / "set") == ["cup"]
