"""finetune.data.unzip: zip files that are not to be trusted."""

import stat
import zipfile
from pathlib import Path

import pytest

from finetune.data.unzip import unpack
from finetune.errors import UserError


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:/evil.txt", "a/../../evil.txt", "."]
)
def test_a_zip_may_not_write_outside(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as zipped:
        zipped.writestr(name, b"evil")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="unsafe path or a link"):
        unpack(tmp_path / "evil.zip", tmp_path / "out")
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_zip_may_not_hold_links(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("balloon/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="unsafe path or a link"):
        unpack(tmp_path / "evil.zip", tmp_path)


def test_a_zip_may_not_swell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.unzip.FREE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zeros", bytes(10_000_000))
    with pytest.raises(UserError, match="unpacks to 1 files of 10,000,000 bytes, more than"):
        unpack(tmp_path / "bomb.zip", tmp_path)
    assert not (tmp_path / "zeros").exists()
