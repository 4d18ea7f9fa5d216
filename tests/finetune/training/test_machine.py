"""What a run is recorded with."""

import importlib.metadata

import pytest

from finetune.training.machine import package_versions


def test_versions_do_not_depend_on_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)  # as after an install from GitHub
    assert all(version[0].isdigit() for version in package_versions().values())
