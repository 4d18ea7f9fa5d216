"""Set-up and fixtures of all tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Give this process a temporary folder of its own, before anything asks for one.

    torch-model-archiver assembles every archive in the same folder of TMPDIR, so two test runs must not share it. The
    path is short because Unix sockets lie in it.
    """
    folder = tempfile.mkdtemp(prefix="t")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    # A shell's background job ("make test &") starts with SIGINT ignored, and children would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPU from tests not marked ``gpu``: they compare results with a processor's, bit for bit."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def balloon_photos() -> Path:
    """The folder of the real balloon set, holding train/ and val/; tests that want it are skipped without it."""
    folder = os.environ.get("BALLOON_DATA")
    if not folder:
        pytest.skip("BALLOON_DATA does not name the folder of the real balloon photos")
    return Path(folder)
