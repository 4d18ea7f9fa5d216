"""A request leaves its id in every log and nothing on disk."""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from tests.corpus import files
from tests.handler.awkward import save
from tests.torchserve_fixture import RunningTorchServe

pytestmark = pytest.mark.e2e

IN_MODIFY, IN_CREATE, IN_MOVED_TO = 0x2, 0x100, 0x80


@contextmanager
def watched(folders: list[Path]) -> Iterator[list[str]]:
    """Names of the files created, written or moved there, from inotify(7); filled when the block ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    inotify = libc.inotify_init1(os.O_NONBLOCK)
    touched: list[str] = []
    try:
        for folder in folders:
            assert libc.inotify_add_watch(inotify, bytes(folder), IN_MODIFY | IN_CREATE | IN_MOVED_TO) > 0
        yield touched
        data = os.read(inotify, 10**6)
        while data:
            (length,) = struct.unpack_from("12xI", data)
            touched.append(data[16 : 16 + length].rstrip(b"\0").decode())
            data = data[16 + length :]
    finally:
        os.close(inotify)


def test_an_upload_touches_no_disk(served: RunningTorchServe, page: str) -> None:
    """Neither the page nor TorchServe (whose HTTP library can spool large forms) nor the worker."""
    noise = np.random.default_rng(0).integers(0, 256, (900, 1000, 3), dtype=np.uint8)
    large = save(Image.fromarray(noise), "PNG")
    assert len(large) > 2_500_000
    home = served.home.path
    folders = [
        home,
        *(path for path in home.rglob("*") if path.is_dir()),
        Path(tempfile.gettempdir()),
        Path.cwd(),
    ]
    with watched(folders) as touched:
        for url in (f"{page}/api/predict", f"{page}/"):
            answer = requests.post(url, files={"image": ("a.png", large)}, timeout=60)
            assert answer.status_code == 200
        (home / "control").write_bytes(b"")
        (home / "control").unlink()
    assert "control" in touched
    assert [name for name in touched if name != "control" and not name.endswith(".log")] == []
    for log in served.home.logs.glob("*.log"):  # logs are appended to, and hold none of the image
        assert large[2000:2020] not in log.read_bytes()


def test_one_id_leads_from_the_browser_to_the_worker(
    served: RunningTorchServe, page: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "web_client")
    answer = requests.post(
        f"{page}/api/predict",
        files={"image": ("a.jpg", files()["JPEG"])},
        headers={"X-Request-ID": "browser-4711"},
        timeout=60,
    )
    assert answer.headers["X-Request-ID"] == "browser-4711"
    assert "browser-4711 POST /api/predict 200" in caplog.text
    log, deadline = served.home.logs / "model_log.log", time.monotonic() + 5
    while "request browser-4711/" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "request browser-4711/" in log.read_text()
