from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from serve_config.errors import ServeError
from serve_config.models.archives import bring_into_store, find_archive, read_archive, verify

MANIFEST = "MAR-INF/MANIFEST.json"


def archive(path: Path, version: str = "v1", name: str = "maskrcnn", **card: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(MANIFEST, json.dumps({"model": {"modelName": name, "modelVersion": version}}))
        file.writestr("model.safetensors", b"weights" * 1000)
        if card:
            file.writestr("archive.json", json.dumps(card))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return (tmp_path / "store").resolve()


def test_archive_tells_version_and_classes(tmp_path: Path) -> None:
    read = read_archive(archive(tmp_path / "a.mar", "resnet50_fpn.2", classes=["cat", "dog"]))
    assert (read.version, read.classes) == ("resnet50_fpn.2", ["cat", "dog"])
    other = read_archive(archive(tmp_path / "b.mar"))
    assert (other.classes, other.uncertainty) == (None, None)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated"])
def test_what_is_no_archive(tmp_path: Path, kind: str) -> None:
    path = archive(tmp_path / "a.mar")
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes({"text": b"not an archive", "empty": b"", "truncated": half}[kind])
    with pytest.raises(ServeError, match="damaged or not an archive"):
        read_archive(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "another zip"),
        *((MANIFEST, text) for text in ("[]", "{}", '{"model": null}', "\xff", '{"model": {"modelName": "maskrcnn"}}')),
    ],
)  # fmt: skip
def test_a_zip_that_is_no_archive(tmp_path: Path, name: str, content: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.mar", "w") as file:
        file.writestr(name, content.encode("latin-1"))
    with pytest.raises(ServeError, match="not a TorchServe archive"):
        read_archive(tmp_path / "a.mar")


def test_an_odd_card_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.mar")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive.json", "[]")
    with pytest.raises(ServeError, match="not a TorchServe archive"):
        read_archive(path)


def test_reading_the_card_does_not_read_the_weights(tmp_path: Path) -> None:
    """`models` lists archives of hundreds of megabytes; `register` verifies."""
    path = archive(tmp_path / "a.mar", classes=["cat"])
    path.write_bytes(path.read_bytes().replace(b"weights", b"Weights", 1))
    assert read_archive(path).classes == ["cat"]
    with pytest.raises(ServeError, match=r"model.safetensors does not match its checksum"):
        verify(path)


def test_missing_archive_and_that_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match=r"there is no archive .*maskrcnn export"):
        read_archive(tmp_path / "a.mar")
    with pytest.raises(ServeError, match="holds the model 'squeezenet'"):
        read_archive(archive(tmp_path / "a.mar", name="squeezenet"))


@pytest.mark.parametrize("version", ["", "..", "a/b", "a b", ".hidden", "ä", "a\n"])
def test_odd_version_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(ServeError, match="letters, digits"):
        read_archive(archive(tmp_path / "a.mar", version))


def test_archive_is_found_by_path_name_and_version(tmp_path: Path, store: Path) -> None:
    inside, outside = archive(store / "maskrcnn_v1.mar"), archive(tmp_path / "x.mar")
    found = [find_archive(name, store) for name in (str(outside), "maskrcnn_v1.mar", "v1")]
    assert found == [outside, inside, inside]


@pytest.mark.parametrize(
    ("name", "message"),
    [(name, r"no archive or version .* holds v1") for name in ("v2", "../x", "", ".", "store")]
    + [(f"{scheme}://b/a.mar", "is a URL: download") for scheme in ("http", "https", "file", "s3")],
)
def test_unknown_archive_lists_what_there_is(tmp_path: Path, store: Path, name: str, message: str) -> None:
    archive(store / "maskrcnn_v1.mar")
    archive(tmp_path / "maskrcnn_.." / "x.mar")
    with pytest.raises(ServeError, match=message):
        find_archive(name, store)


class TestBringIntoStore:
    def test_archive_in_the_store_stays(self, store: Path) -> None:
        inside = read_archive(archive(store / "other_name.mar"))
        assert bring_into_store(inside, store) == ("other_name.mar", False)

    def test_archive_from_elsewhere_is_copied(self, tmp_path: Path, store: Path) -> None:
        source = archive(tmp_path / "x y.mar", "v9")
        assert bring_into_store(read_archive(source), store) == ("maskrcnn_v9.mar", True)
        assert (store / "maskrcnn_v9.mar").read_bytes() == source.read_bytes()
        assert [path.name for path in store.iterdir()] == ["maskrcnn_v9.mar"]
        assert bring_into_store(read_archive(source), store) == ("maskrcnn_v9.mar", False)

    def test_link_in_the_store_is_replaced_by_a_copy(self, tmp_path: Path, store: Path) -> None:
        (store / "link.mar").symlink_to(archive(tmp_path / "x.mar", "v1"))
        assert bring_into_store(read_archive(store / "link.mar"), store) == ("maskrcnn_v1.mar", True)
        assert not (store / "maskrcnn_v1.mar").is_symlink()

    def test_other_file_of_that_name_is_left_alone(self, tmp_path: Path, store: Path) -> None:
        before = archive(store / "maskrcnn_v1.mar", classes=["a"]).read_bytes()
        with pytest.raises(ServeError, match=r"has another maskrcnn_v1.mar"):
            bring_into_store(read_archive(archive(tmp_path / "x.mar")), store)
        assert (store / "maskrcnn_v1.mar").read_bytes() == before

    def test_failed_copy_leaves_nothing(
        self, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(source: Path, target: Path) -> None:
            Path(target).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        source = read_archive(archive(tmp_path / "x.mar"))
        monkeypatch.setattr("shutil.copyfile", full)
        with pytest.raises(ServeError, match="No space left"):
            bring_into_store(source, store)
        assert list(store.iterdir()) == []
