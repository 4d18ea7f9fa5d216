"""`data balloon`: folder, zip and download; the real photos where they are; what is refused."""

import hashlib
import shutil
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
    root = tmp_path / "balloon"
    for split, count in (("train", 10), ("val", 3)):
        save_via(root / split, *(via_entry(f"{split}{i}.jpg", TRIANGLE, as_dict=True) for i in range(count)))
    sums = {
        s: hashlib.sha256((root / s / "via_region_data.json").read_bytes()).hexdigest()
        for s in ("train", "val")
    }
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


def splits(root: Path) -> list[int]:
    return [len(load_split(root, split)) for split in ("train", "val", "test")]


@pytest.mark.parametrize("origin", ["folder", "archive"])
def test_from_a_folder_or_a_zip(origin: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = tmp_path / "set"
    assert run("data", "balloon", "--from", request.getfixturevalue(origin), "--root", root) == 0
    assert splits(root) == [8, 2, 3]
    names = {s: {Path(p["file_name"]).stem for p in load_split(root, s)} for s in ("train", "val", "test")}
    assert names["test"] == {"val0", "val1", "val2"}  # the official val is our test
    assert names["train"] | names["val"] == {f"train{i}" for i in range(10)}
    assert run("data", "check", root) == 0


def test_again_takes_no_photo_and_no_time(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    assert run("data", "balloon", "--from", folder, "--root", root) == 0
    shutil.rmtree(folder)
    assert run("data", "balloon", "--root", root, "--url", "http://127.0.0.1:9/x.zip") == 0
    assert "is up to date" in capsys.readouterr().err
    assert run("data", "balloon", "--root", root, "--seed", 3) == 1
    assert "holds another data set" in capsys.readouterr().err


def test_the_download_is_kept(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(archive.read_bytes()) as server:
        command = ("data", "balloon", "--url", f"{server.url}/balloon_dataset.zip", "--root")
        server.limit = 2000
        assert run(*command, tmp_path / "set") == 1
        place = tmp_path / "cache" / "balloon_dataset.zip"
        assert f"put it at {place}, or pass it with --from" in capsys.readouterr().err
        assert nothing_left(tmp_path / "set")
        server.limit = len(server.content)
        for root in ("set", "other"):
            assert run(*command, tmp_path / root) == 0
            assert splits(tmp_path / root) == [8, 2, 3]
        assert len(server.requests) == 2  # the third time from the cache


def _cut(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-100])


def _flip(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    archive.write_bytes(bytes(content))


def _empty(archive: Path) -> None:
    with zipfile.ZipFile(archive, "w"):
        pass


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_cut, "is not a whole zip file"),
        (_flip, "is not a whole zip file"),
        (_empty, "is not the balloon set"),
        (Path.unlink, "is not there"),
    ],
)
def test_bad_zips(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil, message: str
) -> None:
    spoil(archive)
    assert run("data", "balloon", "--from", archive, "--root", tmp_path / "set") == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert nothing_left(tmp_path / "set")


def test_other_annotations_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / "train" / "via_region_data.json").open("a") as file:
        file.write(" ")
    assert run("data", "balloon", "--from", folder, "--root", tmp_path / "set") == 1
    assert "its checksum differs" in capsys.readouterr().err
    assert run("data", "balloon", "--from", tmp_path, "--root", tmp_path / "set2") == 1
    assert nothing_left(tmp_path / "set2")


@pytest.mark.real_data
def test_the_real_photos(balloon_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "balloon"
    assert run("data", "balloon", "--from", balloon_photos, "--root", root) == 0
    photos = {split: load_split(root, split) for split in ("train", "val", "test")}
    assert {split: len(each) for split, each in photos.items()} == {"train": 49, "val": 12, "test": 13}
    objects = {s: [a for photo in each for a in photo["annotations"]] for s, each in photos.items()}
    assert len(objects["train"]) + len(objects["val"]) == 255
    assert len(objects["test"]) == 50
    official = {path.name for path in (balloon_photos / "val").glob("*.jpg")}
    assert {Path(photo["file_name"]).name for photo in photos["test"]} == official
    for each in photos.values():
        for photo in each:
            for annotation in photo["annotations"]:
                (polygon,) = annotation["segmentation"]
                assert min(polygon) >= 0
                assert max(polygon[::2]) <= photo["width"]
                assert max(polygon[1::2]) <= photo["height"]
    # 13 polygons of 7 photos reached one pixel beyond the right or lower edge; they end at it now
    touching = [
        photo["file_name"]
        for split in ("train", "val")
        for photo in photos[split]
        for annotation in photo["annotations"]
        if annotation["bbox"][2] == photo["width"] or annotation["bbox"][3] == photo["height"]
    ]
    assert (len(touching), len(set(touching))) == (13, 7)
    assert run("data", "check", root) == 0
    assert "0 errors" in capsys.readouterr().out
