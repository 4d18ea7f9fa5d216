"""Downloads from a real HTTP server: cached, resumed, verified, refused."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.download import download
from finetune.errors import UserError
from tests.finetune.file_server import FileServer, serving

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "a.zip"


def test_a_download_is_resumed_where_it_broke_off_and_then_kept(server, target):
    url = f"{server.url}/a.zip"
    server.limit = 2000
    with pytest.raises(UserError, match=r"broke off after 2,000 of .* the same command goes on from there"):
        download(url, target, max_bytes=10**6)
    server.limit = len(CONTENT)
    for _ in range(2):  # the second time from the disk
        assert download(url, target, max_bytes=10**6).read_bytes() == CONTENT
    assert server.requests == [("/a.zip", 0), ("/a.zip", 2000)]


@pytest.mark.parametrize(("part", "ranges"), [(b"old", False), (b"x" * (len(CONTENT) + 5), True)])
def test_a_download_begins_anew_where_it_cannot_be_resumed(server, target, part, ranges):
    target.with_name("a.zip.part").write_bytes(part)
    server.ranges = ranges
    assert download(f"{server.url}/a.zip", target, max_bytes=10**6).read_bytes() == CONTENT


def test_a_file_larger_than_allowed_is_refused(server, target):
    with pytest.raises(UserError, match="larger than 1,000 bytes"):
        download(f"{server.url}/a.zip", target, max_bytes=1000)
    assert not list(target.parent.glob("a.zip*"))


def test_a_checksum_is_verified_and_a_wrong_file_removed(server, target):
    url, prefix = f"{server.url}/a.zip", hashlib.md5(CONTENT).hexdigest()[:6]
    download(url, target, max_bytes=10**6, checksum=("md5", prefix))
    with pytest.raises(UserError, match=r"sha256 begins with .*, not b0353104"):
        download(url, target, max_bytes=10**6, checksum=("sha256", "b0353104"))
    assert not target.exists()


def test_file_urls_work_and_other_schemes_do_not(tmp_path, target):
    (tmp_path / "b.zip").write_bytes(b"bytes")
    assert download((tmp_path / "b.zip").as_uri(), target, max_bytes=99).read_bytes() == b"bytes"
    with pytest.raises(UserError, match="is not a URL"):
        download("ftp://example.org/a.zip", tmp_path / "c.zip", max_bytes=99)


def test_unreachable_names_the_file_and_its_place(server, target):
    url = f"{server.url}/missing.zip"
    with pytest.raises(UserError) as error:
        download(url, target, max_bytes=99)
    assert f"cannot download {url}" in str(error.value)
    assert str(error.value).endswith(f"put it at {target}")
    assert "\n" not in str(error.value)
