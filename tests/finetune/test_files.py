"""Files survive failures: what was there before stays, what failed leaves nothing behind."""

import os
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.files import locked, new_folder, read_json, write_atomically, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_json_is_written_and_read(tmp_path):
    write_json(tmp_path / "new/a.json", {"größe": [1, None]})
    assert read_json(tmp_path / "new/a.json") == {"größe": [1, None]}
    assert names(tmp_path / "new") == ["a.json"]
    assert (tmp_path / "new/a.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is not there"), (b"{", "not valid JSON.*: train again"), (b"[" * 100_000, "not valid JSON")],
    ids=["missing", "cut", "deep"],
)
def test_damaged_json_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_json(path, cure="train again")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), RuntimeError("enforce fail at\nline 2")]
)
def test_failed_write_keeps_the_earlier_file(tmp_path, failure):
    path = tmp_path / "a.bin"
    path.write_text("earlier")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise failure

    with pytest.raises(UserError, match="free some space") as error:
        write_atomically(path, fail)
    assert "\n" not in str(error.value)
    assert path.read_text() == "earlier"
    assert names(tmp_path) == ["a.bin"]


def test_lock_refuses_a_second_process_until_released(tmp_path):
    run = tmp_path / "run"
    with locked(run), pytest.raises(UserError, match="another process is writing"), locked(run):
        pass
    with locked(run, wait=True):
        pass


def test_new_folder_replaces_the_old_one(tmp_path):
    target = tmp_path / "report"
    for text in ("first", "second"):
        with new_folder(target) as folder:
            (folder / text).touch()
    assert names(target) == ["second"]
    assert target.stat().st_mode & 0o777 == 0o755
    with pytest.raises(ZeroDivisionError), new_folder(target) as folder:
        (folder / f"{1 / 0}").touch()
    assert names(target) == ["second"]
    assert names(tmp_path) == ["report"]


def test_failed_swap_brings_the_old_folder_back(tmp_path, monkeypatch):
    target, replace = tmp_path / "report", os.replace
    target.mkdir()
    (target / "old").touch()

    def fail(source: Path, destination: Path) -> None:
        if destination == target and source.name.endswith(".partial"):
            raise OSError(28, "No space left on device")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"cannot be replaced \(No space left"), new_folder(target) as folder:
        (folder / "new").touch()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["report"]
