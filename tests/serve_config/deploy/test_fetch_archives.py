"""Downloads in Kubernetes: an archive gets its name only if its SHA-256 is right."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve_config.conftest import REPOSITORY

CONTENT = b"weights" * 1000
pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
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


def fetch(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    script = REPOSITORY / "serve_config/deploy/kubernetes/fetch_archives.sh"
    return subprocess.run([script, "-", tmp_path / "store"], input=text, capture_output=True, text=True)


def test_fetched_once(tmp_path: Path, site: str) -> None:
    line = f"# ours\n\n{SHA256}  {site}/maskrcnn_a.mar  # the default\n"
    first = fetch(tmp_path, line)
    target = tmp_path / "store/maskrcnn_a.mar"
    assert (first.returncode, first.stdout.strip(), first.stderr) == (0, str(target), "")
    assert target.read_bytes() == CONTENT
    (tmp_path / "site/maskrcnn_a.mar").unlink()
    assert fetch(tmp_path, line).returncode == 0, "what is there and right is not fetched again"


@pytest.mark.parametrize("case", ["wrong", "missing", "other"])
def test_the_store_stays_as_it_was(tmp_path: Path, site: str, case: str) -> None:
    name = {"wrong": "maskrcnn_a.mar", "missing": "maskrcnn_b.mar", "other": "maskrcnn_a.mar"}[case]
    store = tmp_path / "store"
    store.mkdir()
    if case == "other":
        (store / name).write_bytes(b"older")
    answer = fetch(tmp_path, f"{'0' * 64}  {site}/{name}\n{SHA256}  {site}/maskrcnn_a.mar\n")
    assert answer.returncode == 1
    assert {"wrong": SHA256, "missing": "404", "other": "another name"}[case] in answer.stderr
    assert [path.read_bytes() for path in store.iterdir()] == ([b"older"] if case == "other" else [])


@pytest.mark.parametrize(
    "line",
    [
        "maskrcnn_a.mar",
        f"{SHA256[1:]}  https://x/a.mar",
        f"{SHA256}  https://x/a.zip",
        f"{SHA256}  https://x/..mar",
        f"{SHA256}  https://x/a.mar b.mar",
    ],
)
def test_lists_that_are_none(tmp_path: Path, line: str) -> None:
    answer = fetch(tmp_path, f"\n{line}\n")
    assert answer.returncode == 1
    assert f"is not 'SHA256  https://…/NAME.mar': {line.split()[0]}" in answer.stderr
