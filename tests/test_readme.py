"""README.md keeps its promises: the commands of *Your own photos* run as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from maskrcnn import maskrcnn, run
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TINY = (
    "MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_MASK_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.FC_DIM 32 "
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN 100 MODEL.RPN.POST_NMS_TOPK_TRAIN 50 MODEL.RPN.POST_NMS_TOPK_TEST 20 "
    "FINETUNE.AUGMENT.CROP_SIZE 64 INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0 "
    "SOLVER.MAX_ITER 2 TEST.EVAL_PERIOD 2 FINETUNE.AMP off"
).split()


def chain() -> list[list[str]]:
    """The words of each ``maskrcnn`` command in the section's block, up to the first that starts a server."""
    section = README.partition("\n## Your own photos\n")[2]
    found = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert found is not None
    lines = [shlex.split(line, comments=True) for line in found[1].splitlines()]
    commands = [words[1:] for words in lines if words[0] == "maskrcnn"]
    return commands[: commands.index(["serve", "start"])]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_from_photos_to_an_archive_and_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what costs minutes or needs a network is replaced: the model is tiny and begins with random weights."""
    monkeypatch.chdir(tmp_path)
    annotate = (
        "data synthetic --root drawn --images 12 --size 160x120",
        "data export drawn --format via --output photos",
    )
    commands = chain()
    assert [words[0] for words in commands] == "data data train evaluate evaluate export predict".split()
    for words in [*(line.split() for line in annotate), *commands]:
        if words[0] == "train":
            words = [*("none" if word == "imagenet" else word for word in words), *TINY]
        if words[0] == "export":
            words = [*words, "--fp32"]  # int8 is not tried
        assert run(maskrcnn, "maskrcnn", words) == 0, words
    for path in "runs/mugs/evaluation/test model_store/maskrcnn_mobilenetv2_fpn.mar found/coco.json".split():
        assert (tmp_path / path).exists(), path
