"""The starter checkpoint matches its card, and its archive works like any other."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from finetune.checkpoints.run import Run
from finetune.data.synthetic import draw_scene
from serve_config.models.ask import ask
from tests.commands import finetune
from tests.torchserve_fixture import running_torchserve

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "model_store/mobilenetv2_fpn_starter.safetensors"
CARD = (ROOT / "model_store/README.md").read_text(encoding="utf-8")


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert STARTER.stat().st_size <= 25e6
    trained = Run.open(STARTER)
    assert trained.record["backbone"] == "mobilenetv2_fpn"
    assert trained.record["classes"] == ["balloon"]
    assert trained.evaluation
    assert trained.evaluation["split"] == "test"
    assert f"{trained.evaluation['segm']['AP']:.1f} / {trained.evaluation['segm']['AP50']:.1f}" in CARD
    assert "/" not in trained.recorded_config["FINETUNE"]["INIT"], "no path of the machine that trained"


@pytest.mark.real_data
def test_evaluation_gives_the_number_of_the_card(balloon_photos: Path, tmp_path: Path) -> None:
    data, report = tmp_path / "data", tmp_path / "report"
    assert finetune(["data", "balloon", "--from", str(balloon_photos), "--root", str(data)]) == 0
    arguments = ["evaluate", str(STARTER), "--data", str(data), "--split", "test", "--output", str(report)]
    assert finetune(arguments) == 0
    segm = json.loads((report / "report.json").read_text())["segm"]
    starters, _, _ = CARD.partition("\n## The four backbones")
    (said,) = re.findall(r"masks \| ([\d.]+) / ([\d.]+)", starters)
    assert segm["AP"] == pytest.approx(float(said[0]), abs=0.3)
    assert segm["AP50"] == pytest.approx(float(said[1]), abs=0.3)


@pytest.mark.e2e
def test_its_archive_finds_drawn_balloons(tmp_path: Path) -> None:
    assert finetune(["export", str(STARTER), "--output", str(tmp_path / "exported")]) == 0
    rgb, truth = draw_scene(7, 960, 720)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    picture = tmp_path / "scene.png"
    picture.write_bytes(buffer.getvalue())
    with running_torchserve(tmp_path, [tmp_path / "exported/maskrcnn_mobilenetv2_fpn.mar"]) as running:
        answer = json.loads(ask(running.client, picture, None, {}, 120))
    found = [coco_mask.decode(instance["mask"]).astype(bool) for instance in answer["instances"]]
    best = [max((_iou(mask, one) for one in found), default=0.0) for mask in truth]
    assert np.mean([iou > 0.5 for iou in best]) >= 0.5, best


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))
