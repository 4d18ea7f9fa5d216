"""The whole chain on the real photos, by its own commands: all four backbones trained, exported, served at once."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from finetune.backbones import BACKBONES
from serve_config.models.ask import ask
from serve_config.server import lifecycle
from tests.torchserve_fixture import running_torchserve

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.real_data, pytest.mark.timeout(3000)]

# 20 steps on small crops: the path is what matters here, not the masks
SMALL = shlex.split(
    "FINETUNE.AUGMENT.CROP_SIZE 160 INPUT.MIN_SIZE_TEST 192 SOLVER.MAX_ITER 20 SOLVER.IMS_PER_BATCH 2 "
    "TEST.EVAL_PERIOD 20 MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 32 DATALOADER.NUM_WORKERS 1"
)


def finetune(*arguments: object) -> str:
    """Run a command of ``python -m finetune``; return the last line that it printed: the path of what it made."""
    command = [sys.executable, "-m", "finetune", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def archives(balloon_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path | str]:
    folder = tmp_path_factory.mktemp("chain")
    data = folder / "data"
    finetune("data", "balloon", "--from", balloon_photos, "--root", data)
    made: list[Path | str] = []
    for backbone in BACKBONES:
        run = folder / "runs" / backbone
        assert (
            Path(finetune("train", backbone, "--data", data, "--weights", "none", "--output", run, *SMALL))
            == run
        )
        assert json.loads((run / "run.json").read_text())["iterations"] == 20
        finetune("evaluate", run, "--data", data, "--split", "val")
        made.append(Path(finetune("export", run, "--output", folder / "exported")))
    return made


def test_all_four_answer_a_real_photo(
    archives: list[Path | str], balloon_photos: Path, tmp_path: Path
) -> None:
    photo = sorted((balloon_photos / "val").glob("*.jpg"))[0]
    with running_torchserve(tmp_path, archives) as running:
        answers = {
            backbone: json.loads(ask(running.client, photo, backbone, {"score_threshold": "0"}, 120))
            for backbone in BACKBONES
        }
        assert [answers[backbone]["model"]["version"] for backbone in BACKBONES] == list(BACKBONES)
        assert len({answer["model"]["weights_sha256"] for answer in answers.values()}) == 4
        with Image.open(photo) as image:
            width, height = image.size
        for answer in answers.values():
            assert answer["image"] == {"width": width, "height": height}
            assert answer["timings_ms"]["inference"] > 0
            for instance in answer["instances"]:  # after 20 steps from random weights there may be none
                assert instance["mask"]["size"] == [height, width]
    assert not lifecycle.stop(running.home), "nothing was left running"
