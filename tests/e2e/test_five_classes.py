"""Five classes annotated in another tool: imported, trained for 100 steps, exported and served."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune.data.dataset import class_names
from serve_config.errors import ServeError
from serve_config.models.ask import ask
from tests.commands import finetune
from tests.finetune.training.test_training import TOY
from tests.torchserve_fixture import running_torchserve

CLASSES = {"bar": 2, "disc": 40, "kite": 4, "triangle": 3, "hexagon": 6}  # name → corners


def draw_labelme(folder: Path, count: int) -> None:
    """Pictures of three shapes each, with labelme files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        image = rng.integers(0, 60, (96, 128, 3), dtype=np.uint8)
        shapes = []
        for name in rng.permutation(list(CLASSES))[:3].tolist():
            corners, center = CLASSES[name], rng.uniform((25, 25), (103, 71))
            angles = np.linspace(0, 2 * np.pi, max(corners, 4), endpoint=False) + rng.uniform(0, 6)
            radii = np.where(np.arange(len(angles)) % 2, 5 if corners == 2 else 15, 20)
            points = center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            color = rng.integers(120, 256, 3).tolist()
            cv2.fillPoly(image, [np.round(points).astype(np.int32)], color)
            shapes.append({"label": name, "shape_type": "polygon", "points": points.tolist()})
        cv2.imwrite(str(folder / f"{i}.png"), image)
        (folder / f"{i}.json").write_text(json.dumps({"shapes": shapes, "imagePath": f"{i}.png"}))


@pytest.mark.e2e
@pytest.mark.slow
def test_five_classes_from_labelme_to_torchserve(tmp_path: Path) -> None:
    draw_labelme(tmp_path / "photos", 40)
    data, run = tmp_path / "data", tmp_path / "run"
    assert finetune(["data", "import", str(tmp_path / "photos"), "--root", str(data)]) == 0
    assert class_names(data) == sorted(CLASSES)
    assert finetune(["data", "check", str(data)]) == 0
    toy = [*TOY, "SOLVER.MAX_ITER", "100", "TEST.EVAL_PERIOD", "100", "FINETUNE.REPEAT_THRESHOLD", "0.9"]
    words = ["mobilenetv2_fpn", "--data", str(data), "--weights", "none", "--output", str(run), *toy]
    assert finetune(["train", *words]) == 0
    assert finetune(["export", str(run), "--output", str(tmp_path / "exported")]) == 0
    (archive,) = (tmp_path / "exported").glob("*.mar")
    with running_torchserve(tmp_path, [archive]) as running:
        photo = tmp_path / "photos" / "0.png"
        # the server refuses names that the model does not know
        answer = json.loads(ask(running.client, photo, None, {"classes": ",".join(CLASSES)}, 120))
        with pytest.raises(ServeError, match="balloon"):
            ask(running.client, photo, None, {"classes": "balloon"}, 120)
    assert (answer["image"]["width"], answer["image"]["height"]) == (128, 96)
    assert {each["class_name"] for each in answer["instances"]} <= set(CLASSES)
