from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from handler.model.cores import usable_cores


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _self: list(range(16)), raising=False)


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


def test_without_quota_or_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has neither."""
    assert usable_cores(tmp_path) == 16
    monkeypatch.delattr(psutil.Process, "cpu_affinity")
    monkeypatch.setattr(psutil, "cpu_count", lambda: 10)
    assert usable_cores(tmp_path) == 10
