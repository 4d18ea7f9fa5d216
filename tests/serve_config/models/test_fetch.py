"""``maskrcnn serve fetch``: an archive gets its name only if its SHA-256 is right."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskrcnn import run
from serve_config.cli import serve
from serve_config.errors import ServeError
from serve_config.models.fetch import read_list

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/maskrcnn_a.mar").write_bytes(CONTENT)
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fetch(tmp_path: Path, text: str) -> int:
    (tmp_path / "list.txt").write_text(text)
    return run(serve, "serve", ["fetch", str(tmp_path / "list.txt"), "--to", str(tmp_path / "store")])


def test_fetched_once(tmp_path: Path, site: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"# ours\n\n{SHA256}  {site}/maskrcnn_a.mar\n"
    assert fetch(tmp_path, line) == 0
    target = tmp_path / "store/maskrcnn_a.mar"
    assert target.read_bytes() == CONTENT
    assert capsys.readouterr().out.strip() == str(target)
    (tmp_path / "site/maskrcnn_a.mar").unlink()
    assert fetch(tmp_path, line) == 0, "what is there and right is not fetched again"
    file = f"{SHA256} *{target.as_uri().replace('/store/', '/store/../store/')}"
    assert fetch(tmp_path, file) == 0


@pytest.mark.parametrize("case", ["wrong", "missing", "other"])
def test_the_store_stays_as_it_was(
    tmp_path: Path, site: str, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"wrong": "maskrcnn_a.mar", "missing": "maskrcnn_b.mar", "other": "maskrcnn_a.mar"}[case]
    store = tmp_path / "store"
    store.mkdir()
    if case == "other":
        (store / name).write_bytes(b"older")
    assert fetch(tmp_path, f"{'0' * 64}  {site}/{name}") == 1
    said = capsys.readouterr().err
    assert {"wrong": SHA256, "missing": "404", "other": "another name"}[case] in said
    assert [path.read_bytes() for path in store.iterdir()] == ([b"older"] if case == "other" else [])


@pytest.mark.parametrize(
    "line",
    [
        "maskrcnn_a.mar",
        f"{SHA256} ftp://x/a.mar",
        f"{SHA256[1:]}  https://x/a.mar",
        f"{SHA256}  https://x/a.zip",
    ],
)
def test_lists_that_are_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(f"\n{line}\n")
    with pytest.raises(ServeError, match="line 2"):
        read_list(str(tmp_path / "list"))
