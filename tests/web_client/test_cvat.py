"""The function file for cvat-cli: what CVAT's own package would upload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.web_client.conftest import ask_tools, serving
from tests.web_client.stub import balloon_picture, find_balloons
from web_client.app import create_app
from web_client.client import decode_rle

FILE = Path(__file__).resolve().parents[2] / "web_client" / "client" / "cvat_function.py"


@pytest.fixture
def annotate(config: dict[str, Any], tmp_path: Path) -> Any:
    picture = tmp_path / "a.png"
    picture.write_bytes(balloon_picture(300, 200))

    def annotate(**options: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """CVAT's shapes, and the stub's instances."""
        arguments = {"file": str(FILE), "picture": str(picture), "polygons": False, "threshold": None}
        with serving(create_app(config)) as url:
            shapes = ask_tools("cvat", **(arguments | {"url": url} | options))
        return shapes, find_balloons(picture.read_bytes())[1]

    return annotate


def test_masks(annotate: Any) -> None:
    (shape,), (instance,) = annotate()
    assert (shape["type"], shape["label"], shape["score"]) == ("mask", 77, instance["score"])
    mask, truth = np.array(shape["points"]), decode_rle(instance["mask"])
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95  # the frame is sent as JPEG


def test_polygons(annotate: Any) -> None:
    (shape,), (instance,) = annotate(polygons=True)
    assert shape["type"] == "polygon"
    points = np.reshape(shape["points"], (-1, 2))
    assert [*points.min(axis=0), *points.max(axis=0)] == pytest.approx(instance["box"], abs=2)


def test_its_threshold_is_the_models(annotate: Any) -> None:
    shapes, instances = annotate(threshold=0.99)
    assert instances[0]["score"] < 0.99
    assert shapes == []
