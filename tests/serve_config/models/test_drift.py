"""Served pictures that differ from those of val."""

from __future__ import annotations

import json
import zipfile
from datetime import date, timedelta
from pathlib import Path

import pytest

from serve_config.litserve.metrics import Metrics
from serve_config.models.drift import Week
from serve_config.models.management import Version
from serve_config.server.state import Home
from serve_config.server.status import Status, VersionStatus, as_text

USUAL = {"photos": 16, "mean": 0.05, "std": 0.04}


TODAY = date(2026, 3, 9)


def page(count: int, mean: float) -> str:
    metrics = Metrics()
    for _ in range(count):
        metrics.add("maskrcnn_uncertainty", mean, ["v"])
        metrics.add("maskrcnn_uncertainty", 0.05, ["another"])
    return metrics.page()


@pytest.mark.parametrize(
    ("count", "mean", "usual", "said"),
    [
        (100, 0.2, USUAL, "0.200"),
        (100, 0.01, USUAL, "0.010"),
        (100, 0.08, USUAL, ""),  # within three standard errors
        (100, 0.08, USUAL | {"photos": 1600}, "0.080"),
        (49, 0.2, USUAL, ""),  # too few
        (100, 0.2, None, ""),
        (0, 0, USUAL, ""),
    ],
)
def test_drift(tmp_path: Path, count: int, mean: float, usual: dict[str, float] | None, said: str) -> None:
    start = f"{count} pictures since the start differ from the val photos: uncertainty"
    week = Week.of(Home(tmp_path), page(count, mean), TODAY)
    assert week.drift("v", usual) == (said and f"{start} {said} instead of 0.050")


def counters(count: float, total: float) -> str:
    """As TorchServe writes them: labels in another order, and a comma after the last one."""
    labels = '{Level="Model",version="v",Hostname="h",}'
    return f"maskrcnn_uncertainty_count{labels} {count}\nmaskrcnn_uncertainty_sum{labels} {total}\n"


def test_only_this_week_counts(tmp_path: Path) -> None:
    """A month of usual pictures, then others, and a server that starts again."""
    for days, count, total, said in (
        (0, 3000, 150, ""),
        (1, 3060, 162, "60 pictures since 2026-03-09"),
        (6, 3360, 222, "360 pictures since 2026-03-09"),
        (9, 3480, 246, "120 pictures since 2026-03-15"),
        (9, 3490, 248, "130 pictures since 2026-03-15"),
        (10, 90, 18, "90 pictures since the start"),
        (11, 130, 26, ""),  # too few since yesterday
    ):
        week = Week.of(Home(tmp_path), counters(count, total), TODAY + timedelta(days))
        assert week.drift("v", USUAL).partition(" differ")[0] == said
        assert week.drift("w", USUAL) == ""
    assert list(json.loads((tmp_path / "drift.json").read_text())) == ["2026-03-19", "2026-03-20"]


def test_notes_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "drift.json").write_text("{")
    assert "since the start" in Week.of(Home(tmp_path), page(100, 0.2), TODAY).drift("v", USUAL)
    assert "since the start" in Week.of(Home(tmp_path / "gone"), page(100, 0.2), TODAY).drift("v", USUAL)


def test_status_compares_with_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.mar", "w") as file:
        manifest = {"model": {"modelName": "maskrcnn", "modelVersion": "v"}}
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        file.writestr("archive.json", json.dumps({"operating_point": {"uncertainty": USUAL}}))
    week = Week.of(Home(tmp_path), page(100, 0.2), TODAY)
    versions = [
        VersionStatus.of(Version("v", name, [], 1, 0, 32), "v", tmp_path, week)
        for name in ("a.mar", "gone.mar")
    ]
    text = as_text(Status("home", "TorchServe", pid=1, versions=versions))
    assert text.count("drift        v: 100 pictures since the start differ") == 1
