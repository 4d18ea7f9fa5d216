from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve_config.server import processes
from serve_config.server.state import ENGINES, State
from tests.torchserve_fixture import RunningTorchServe, running_torchserve, toy_archive

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Archives by version; none of them needs torch."""
    folder = tmp_path_factory.mktemp("toys")
    return {version: toy_archive(folder, version) for version in ("alpha", "beta", "gamma")}


@pytest.fixture(scope="session", params=ENGINES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, toys: dict[str, Path]
) -> Iterator[RunningTorchServe]:
    """Each server once, for the tests that leave it as they found it: ``alpha`` is the default, ``beta`` is there.

    It is started in an environment that tries to loosen its configuration, and to put this repository's
    packages before those of the archives.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TS_DISABLE_TOKEN_AUTHORIZATION", "true")
        patch.setenv("TS_INFERENCE_ADDRESS", "http://0.0.0.0:8080")
        patch.setenv("TS_ALLOWED_URLS", ".*")
        patch.setenv("TS_CONFIG_FILE", "/nonexistent")
        patch.setenv("LOG_LOCATION", "/nonexistent")
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        folder = tmp_path_factory.mktemp("torchserve")
        with running_torchserve(folder, [toys["alpha"], toys["beta"]], engine=request.param) as running:
            yield running
        assert processes.members(State.load(running.home)) == []


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts an ``nvidia-smi`` that runs a line of shell first on the PATH; gives the folder that it is in."""

    def install(line: str) -> Path:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return tmp_path

    return install
