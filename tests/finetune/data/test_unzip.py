"""Zip files that are not to be trusted."""

import stat
import zipfile

import pytest

from finetune.data.importing import unpack
from finetune.errors import UserError


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
