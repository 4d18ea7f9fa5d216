"""`data balloon`: folder, zip and download; the real photos where they are; what is refused."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from finetune.data import balloon
from finetune.data.dataset import load_split
from tests.finetune.data.samples import TRIANGLE, nothing_left, run, save_via, via_entry
from tests.finetune.file_server import serving


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the balloon set, with checksums that fit."""
    root, sums = tmp_path / "balloon", set()
    for split, count in (("train", 10), ("val", 3)):
        entries = (via_entry(f"{split}{i}.jpg", TRIANGLE, as_dict=True) for i in range(count))
        sums.add(hashlib.sha256(save_via(root / split, *entries).read_bytes()).hexdigest())
    monkeypatch.setattr(balloon, "SHA256", sums)
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    return root


@pytest.fixture
def archive(folder: Path) -> Path:
    """The same as a zip, made as a Mac makes them."""
    path = folder.parent / "balloon_dataset.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("__MACOSX/balloon/._train", b"x")
        for file in sorted(folder.rglob("*")):
            zipped.write(file, file.relative_to(folder.parent))
    return path


def splits(root: Path) -> dict[str, set[str]]:
    return {s: {Path(p["file_name"]).stem for p in load_split(root, s)} for s in ("train", "val", "test")}


@pytest.mark.parametrize("origin", ["folder", "archive"])
def test_from_a_folder_or_a_zip(origin, tmp_path, request, capsys):
    root, source = tmp_path / "set", request.getfixturevalue(origin)
    assert run("data", "balloon", "--from", source, "--root", root) == 0
    names = splits(root)
    assert names["test"] == {"val0", "val1", "val2"}  # the official val is our test
    assert len(names["val"]) == 2
    assert names["train"] | names["val"] == {f"train{i}" for i in range(10)}
    assert run("data", "check", root) == 0
    source.rename(tmp_path / "gone")
    assert run("data", "balloon", "--from", source, "--root", root) == 0
    assert "is up to date" in capsys.readouterr().err


def test_the_download_is_kept(archive, tmp_path, capsys, monkeypatch):
    with serving(archive.read_bytes()) as server:
        monkeypatch.setattr(balloon, "URL", f"{server.url}/balloon_dataset.zip")
        server.limit = 2000
        assert run("data", "balloon", "--root", tmp_path / "set") == 1
        place = tmp_path / "cache" / "balloon_dataset.zip"
        assert f"put it at {place}, or pass it with --from" in capsys.readouterr().err
        assert nothing_left(tmp_path / "set")
        server.limit = len(server.content)
        for root in ("set", "other"):
            assert run("data", "balloon", "--root", tmp_path / root) == 0
            assert [len(names) for names in splits(tmp_path / root).values()] == [8, 2, 3]
        assert len(server.requests) == 2  # the third time from the cache


def _cut(folder: Path, archive: Path) -> Path:
    archive.write_bytes(archive.read_bytes()[:-100])
    return archive


def _flip(folder: Path, archive: Path) -> Path:
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    archive.write_bytes(bytes(content))
    return archive


def _empty(folder: Path, archive: Path) -> Path:
    zipfile.ZipFile(archive, "w").close()
    return archive


def _edit(folder: Path, archive: Path) -> Path:
    with (folder / "train" / "via_region_data.json").open("a") as file:
        file.write(" ")
    return folder


BAD = {
    "is neither a folder, a zip": _cut,
    "is not a whole zip file": _flip,
    "holds no VIA file": _empty,
    "is not there": lambda folder, archive: folder / "nowhere",
    "the checksums of its annotations differ": _edit,
    "is not the balloon set": lambda folder, archive: folder / "train",
}


@pytest.mark.parametrize("message", BAD)
def test_other_things_are_refused(folder, archive, tmp_path, capsys, message):
    assert run("data", "balloon", "--from", BAD[message](folder, archive), "--root", tmp_path / "set") == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert nothing_left(tmp_path / "set")


@pytest.mark.real_data
def test_the_real_photos(balloon_photos, tmp_path, capsys):
    root = tmp_path / "balloon"
    assert run("data", "balloon", "--from", balloon_photos, "--root", root) == 0
    photos = {split: load_split(root, split) for split in ("train", "val", "test")}
    assert {split: len(each) for split, each in photos.items()} == {"train": 49, "val": 12, "test": 13}
    objects = {s: [a for photo in each for a in photo["annotations"]] for s, each in photos.items()}
    assert len(objects["train"]) + len(objects["val"]) == 255
    assert len(objects["test"]) == 50
    assert splits(root)["test"] == {path.stem for path in (balloon_photos / "val").glob("*.jpg")}
    touching = []
    for photo in (photo for each in photos.values() for photo in each):
        for annotation in photo["annotations"]:
            (polygon,) = annotation["segmentation"]
            (left, top, right, bottom), size = annotation["bbox"], (photo["width"], photo["height"])
            assert min(polygon) == min(left, top) >= 0
            assert right <= size[0]
            assert bottom <= size[1]
            if (right == size[0] or bottom == size[1]) and photo not in photos["test"]:
                touching.append(photo["file_name"])
    # 13 polygons of 7 photos reached one pixel beyond the right or lower edge; they end at it now
    assert (len(touching), len(set(touching))) == (13, 7)
    assert run("data", "check", root) == 0
    assert "0 errors" in capsys.readouterr().out
