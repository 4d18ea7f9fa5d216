"""Served pictures that differ from those of val."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from serve_config.litserve.metrics import Metrics
from serve_config.models.drift import drift
from serve_config.models.management import Version
from serve_config.server.status import Status, VersionStatus, as_text

USUAL = {"photos": 16, "mean": 0.05, "std": 0.04}


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
def test_drift(count: int, mean: float, usual: dict[str, float] | None, said: str) -> None:
    start = f"{count} pictures since the start differ from the val photos: uncertainty"
    assert drift(page(count, mean), "v", usual) == (said and f"{start} {said} instead of 0.050")


def test_torchserves_spelling() -> None:
    """It writes labels in another order, and a comma after the last one."""
    text = "".join(
        f'maskrcnn_uncertainty_{what}{{Level="Model",version="v",Hostname="h",}} {value}\n'
        for what, value in (("count", "100.0"), ("sum", "20.0"))
    )
    assert "uncertainty 0.200 instead of 0.050" in drift(text, "v", USUAL)
    assert drift(text, "w", USUAL) == ""


def test_status_compares_with_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.mar", "w") as file:
        manifest = {"model": {"modelName": "maskrcnn", "modelVersion": "v"}}
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        file.writestr("archive.json", json.dumps({"operating_point": {"uncertainty": USUAL}}))
    versions = [
        VersionStatus.of(Version("v", name, [], 1, 0, 32), "v", tmp_path, page(100, 0.2))
        for name in ("a.mar", "gone.mar")
    ]
    text = as_text(Status("home", "TorchServe", pid=1, versions=versions))
    assert text.count("drift        v: 100 pictures since the start differ") == 1
