from __future__ import annotations

import os
from pathlib import Path

import pytest

from handler.model.cores import usable_cores


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("400000 100000", 4), ("50000 100000", 1), ("max 100000", 16), ("9900000 100000", 16), ("", 16)],
)
def test_quota_of_a_container(tmp_path: Path, limit: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [(250000, 2), (-1, 16)])
def test_quota_of_an_older_kernel(tmp_path: Path, quota: int, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


def test_no_quota(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 16
