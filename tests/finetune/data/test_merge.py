"""`data merge`: the newer annotations win, test photos stay test photos."""

from pathlib import Path

import pytest

from finetune.data.dataset import class_names, read_photos
from tests.finetune.data.samples import TRIANGLE, polygon, run, save_via, via_entry

LARGER = polygon((5, 5), (30, 5), (5, 25))


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Ten photos of mugs; the newer set has all of them in train but one, corrects photo 0, and adds two with cups."""
    save_via(tmp_path / "photos", *(via_entry(f"{i}.png", TRIANGLE, kind="mug") for i in range(10)))
    assert run("data", "import", tmp_path / "photos", "--root", tmp_path / "old") == 0
    save_via(
        tmp_path / "photos",
        *(via_entry(f"{i}.png", LARGER if i == 0 else TRIANGLE, kind="mug") for i in range(9)),
        *(via_entry(f"new{i}.png", TRIANGLE, kind="cup") for i in range(2)),
    )
    assert (
        run("data", "import", tmp_path / "photos", "--root", tmp_path / "new", "--val", 0, "--test", 0) == 0
    )
    return tmp_path / "old", tmp_path / "new"


def test_merge(sets, tmp_path, capsys):
    old, new = sets
    capsys.readouterr()
    assert run("data", "merge", old, new, "--root", tmp_path / "merged") == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'merged'}\n"
    assert "photos: 1 corrected, 8 unchanged, 2 added, 1 only in the older set" in captured.err
    assert "train: 6 objects before, 8 now" in captured.err
    assert class_names(tmp_path / "merged") == ["mug", "cup"]
    places = {
        split: {photo.name: photo for photo in read_photos(tmp_path / "merged", split)}
        for split in ("train", "val", "test")
    }
    for split in ("val", "test"):
        assert places[split].keys() == {photo.name for photo in read_photos(old, split)}
    assert {"new0.png", "new1.png"} <= places["train"].keys()
    every = {name: photo for photos in places.values() for name, photo in photos.items()}
    assert len(every) == 12
    (corrected,) = every["0.png"].instances
    assert corrected.segmentation == [[5.5, 5.5, 30.5, 5.5, 5.5, 25.5]]
    assert [each.class_id for each in every["new0.png"].instances] == [1]
    assert run("data", "check", tmp_path / "merged") == 0


def test_merging_into_the_older_set_needs_force(sets, capsys):
    old, new = sets
    assert run("data", "merge", old, new, "--root", old) == 1
    assert "holds another data set" in capsys.readouterr().err
    assert run("data", "merge", old, new, "--root", old, "--force") == 0
    assert len(read_photos(old, "train")) == 8
