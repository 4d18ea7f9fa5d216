from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import yaml

from serve_config.errors import ServeError
from serve_config.models.archives import (
    bring_into_store,
    find_archive,
    original_name,
    read_archive,
    verify,
    with_overrides,
)


def archive(
    path: Path, version: str = "v1", name: str = "maskrcnn", classes: list[str] | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": name, "modelVersion": version}})
        )
        file.writestr("model.safetensors", b"weights" * 1000)
        if classes:
            file.writestr("archive.json", json.dumps({"classes": classes}))
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


def damage(path: Path, kind: str) -> Path:
    content = path.read_bytes()
    if kind == "text":
        path.write_text("not an archive")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped bit":
        at = content.index(b"weights")
        path.write_bytes(content[:at] + b"W" + content[at + 1 :])
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.txt", "a")
    elif kind in ("[]", "{}", '{"model": null}', "\xff", '{"model": {"modelName": "maskrcnn"}}'):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("MAR-INF/MANIFEST.json", kind.encode("latin-1"))
    elif kind == "odd card":
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("archive.json", "[]")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "damaged or not an archive"),
        ("empty", "damaged or not an archive"),
        ("truncated", "damaged or not an archive"),
        ("flipped bit", "model.safetensors does not match its checksum"),
        ("other zip", "not a TorchServe archive"),
        ("[]", "not a TorchServe archive"),
        ("{}", "not a TorchServe archive"),
        ('{"model": null}', "not a TorchServe archive"),
        ("\xff", "not a TorchServe archive"),
        ('{"model": {"modelName": "maskrcnn"}}', "not a TorchServe archive"),
        ("odd card", "not a TorchServe archive"),
    ],
)
def test_wrong_archive_says_why(tmp_path: Path, kind: str, message: str) -> None:
    path = damage(archive(tmp_path / "a.mar"), kind)
    check = verify if kind == "flipped bit" else read_archive
    with pytest.raises(ServeError, match=message):
        check(path)


def test_reading_the_card_does_not_read_the_weights(tmp_path: Path) -> None:
    """`models` lists archives of hundreds of megabytes; `register` verifies."""
    path = damage(archive(tmp_path / "a.mar", classes=["cat"]), "flipped bit")
    assert read_archive(path).classes == ["cat"]
    with pytest.raises(ServeError, match=r"model.safetensors does not match its checksum"):
        verify(path)


def test_missing_archive_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match=r"there is no archive .*maskrcnn export"):
        read_archive(tmp_path / "a.mar")


def test_archive_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="holds the model 'squeezenet'"):
        read_archive(archive(tmp_path / "a.mar", name="squeezenet"))


@pytest.mark.parametrize("version", ["", "..", "a/b", "a b", ".hidden", "ä", "a\n"])
def test_odd_version_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(ServeError, match="letters, digits"):
        read_archive(archive(tmp_path / "a.mar", version))


def test_archive_is_found_by_path_name_and_version(tmp_path: Path, store: Path) -> None:
    inside, outside = archive(store / "maskrcnn_v1.mar"), archive(tmp_path / "x.mar")
    assert find_archive(str(outside), store) == outside
    assert find_archive("maskrcnn_v1.mar", store) == inside
    assert find_archive("v1", store) == inside


@pytest.mark.parametrize("name", ["v2", "../x", "", ".", "store"])
def test_unknown_archive_lists_what_there_is(tmp_path: Path, store: Path, name: str) -> None:
    archive(store / "maskrcnn_v1.mar")
    archive(tmp_path / "maskrcnn_.." / "x.mar")
    with pytest.raises(ServeError, match=r"no archive or version .* holds v1"):
        find_archive(name, store)


@pytest.mark.parametrize(
    "name", ["http://host/a.mar", "https://host/a.mar", "file:///etc/passwd", "s3://b/a.mar"]
)
def test_url_is_refused(store: Path, name: str) -> None:
    with pytest.raises(ServeError, match="is a URL: download"):
        find_archive(name, store)


class TestBringIntoStore:
    def test_archive_in_the_store_stays(self, store: Path) -> None:
        assert bring_into_store(read_archive(archive(store / "other_name.mar")), store) == (
            "other_name.mar",
            False,
        )

    def test_archive_from_elsewhere_is_copied(self, tmp_path: Path, store: Path) -> None:
        source = archive(tmp_path / "x y.mar", "v9")
        assert bring_into_store(read_archive(source), store) == ("maskrcnn_v9.mar", True)
        assert (store / "maskrcnn_v9.mar").read_bytes() == source.read_bytes()
        assert [path.name for path in store.iterdir()] == ["maskrcnn_v9.mar"]
        assert bring_into_store(read_archive(source), store) == ("maskrcnn_v9.mar", False)

    def test_link_in_the_store_is_replaced_by_a_copy(self, tmp_path: Path, store: Path) -> None:
        source = archive(tmp_path / "x.mar", "v1")
        (store / "link.mar").symlink_to(source)
        assert bring_into_store(read_archive(store / "link.mar"), store) == ("maskrcnn_v1.mar", True)
        assert not (store / "maskrcnn_v1.mar").is_symlink()

    def test_other_file_of_that_name_is_left_alone(self, tmp_path: Path, store: Path) -> None:
        archive(store / "maskrcnn_v1.mar", classes=["a"])
        before = (store / "maskrcnn_v1.mar").read_bytes()
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


@pytest.mark.parametrize(
    ("own", "overrides", "copied"),
    [
        ("minWorkers: 1\nresponseTimeout: 120\n", {"minWorkers": 2, "maxWorkers": 2}, True),
        ("minWorkers: 2\n", {"minWorkers": 2}, False),
        ("batchSize: 1\n", {"minWorkers": 2}, False),  # config.properties is enough where the key is absent
        ("batchSize: 1\n", {}, False),
        (None, {"minWorkers": 2}, False),
    ],
)
def test_overrides_win_in_a_passing_copy(
    store: Path, own: str | None, overrides: dict[str, int], copied: bool
) -> None:
    path = archive(store / "maskrcnn_v1.mar")
    if own:
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("model-config.yaml", own)
    before = path.read_bytes()
    with with_overrides(path, overrides) as name:
        assert (name != path.name) is copied
        assert original_name(name) == path.name
        verify(store / name)
        if copied:
            with zipfile.ZipFile(store / name) as file:
                config = yaml.safe_load(file.read("model-config.yaml"))
            assert config == yaml.safe_load(own or "") | overrides
    assert [file.name for file in store.iterdir()] == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize("own", ["- a list", "a: [", "\t"])
def test_malformed_config_is_refused(store: Path, own: str) -> None:
    path = archive(store / "maskrcnn_v1.mar")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("model-config.yaml", own)
    with (
        pytest.raises(ServeError, match=r"malformed model-config.yaml"),
        with_overrides(path, {"minWorkers": 2}),
    ):
        pass
