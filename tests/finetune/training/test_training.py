"""The training command on a toy model and a few drawn photos."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from detectron2.config import CfgNode

from finetune.training.cli import train as train_command
from finetune.training.launch import prepare
from finetune.training.schedule import fit_schedule
from maskrcnn import run as run_command

REPOSITORY = Path(__file__).parents[3]
_TOY = (
    "MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_MASK_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.FC_DIM 32 "
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN 100 MODEL.RPN.POST_NMS_TOPK_TRAIN 50 MODEL.RPN.POST_NMS_TOPK_TEST 20 "
    "FINETUNE.AUGMENT.CROP_SIZE 64 INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0 "
    "FINETUNE.AMP off SEED 7"
)
TOY = _TOY.split()
FILES = "config.yaml run.json metrics.json curves.png last.pth model_best.safetensors"
FOUR_STEPS = "SOLVER.MAX_ITER 4 TEST.EVAL_PERIOD 2 SOLVER.CHECKPOINT_PERIOD 2 FINETUNE.EMA_DECAY 0.9"
ENDLESS = "SOLVER.MAX_ITER 4000 TEST.EVAL_PERIOD 0 SOLVER.CHECKPOINT_PERIOD 2"


def arguments(data: Path, run: Path, more: str = "", backbone: str = "mobilenetv2_fpn") -> list[str]:
    return [backbone, "--data", str(data), "--weights", "none", "--output", str(run), *TOY, *more.split()]


def resume_arguments(data: Path, run: Path, more: str = "", backbone: str = "mobilenetv2_fpn") -> list[str]:
    return [backbone, "--data", str(data), "--output", str(run), "--resume", *more.split()]


def train(words: list[str]) -> int:
    """Run the command in this process; return its exit status."""
    return run_command(train_command, "maskrcnn train", words)


def command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "finetune", "train", *words]


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]


def last(run: Path) -> dict:
    return torch.load(run / "last.pth", weights_only=True)


def assert_equal_weights(one: Path, two: Path, *parts: str) -> None:
    for part in parts or ("model",):
        first, second = last(one)[part], last(two)[part]
        assert first.keys() == second.keys()
        assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """An uninterrupted run of two epochs: 4 steps of 2 photos."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert train(arguments(data, run, FOUR_STEPS)) == 0
    return run


def test_a_run_folder_is_complete(whole):
    files = {path.name for path in whole.iterdir()}
    assert set(FILES.split()) <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert not any(name.endswith(".tmp") for name in files)
    record = json.loads((whole / "run.json").read_text())
    assert (record["backbone"], record["classes"], record["iterations"]) == ("mobilenetv2_fpn", ["disc"], 4)
    assert record["best"]["iteration"] in (2, 4)
    assert [row["iteration"] + 1 for row in metrics(whole) if "val/segm_AP" in row] == [2, 4]


def test_stopped_and_resumed_with_loader_workers_ends_with_the_same_weights(data, whole, tmp_path, capsys):
    run = tmp_path / "resumed"
    assert train(arguments(data, run, f"--stop-after 2 {FOUR_STEPS} DATALOADER.NUM_WORKERS 2")) == 0
    with (run / "metrics.json").open("a") as file:
        file.write('{"iteration": 0, "total_lo')  # as a full disk leaves it
    assert train(resume_arguments(data, run)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run)
    assert_equal_weights(whole, run, "model", "average")
    assert (last(run)["step"], last(run)["best"]) == (4, last(whole)["best"])
    assert [row["iteration"] for row in metrics(run)] == [1, 3]


def test_minutes_set_the_schedule_before_the_first_step(data, whole, tmp_path, monkeypatch, capsys):
    measured = []

    def four_steps_fit(cfg: CfgNode, *seconds: float) -> str:
        measured.append(seconds)
        return fit_schedule(cfg, 70, 10, 5)

    monkeypatch.setattr("finetune.training.schedule.fit_schedule", four_steps_fit)
    run = tmp_path / "run"
    shape = "SOLVER.WARMUP_ITERS 8750 FINETUNE.EMA_DECAY 0.9"  # of 700 steps; for 4, the warm-up of `whole`
    assert train(arguments(data, run, f"--minutes 3 --stop-after 2 {shape}")) == 0
    assert "3 minutes are enough for 4 steps of 10 s and 2 evaluations of 5 s" in capsys.readouterr().err
    assert json.loads((run / "run.json").read_text())["planned_iterations"] == 4
    assert train(resume_arguments(data, run)) == 0
    assert_equal_weights(whole, run, "model", "average")
    [(left, step, evaluation)] = measured
    assert 0 < left < 180
    assert step > 0
    assert evaluation > 0


def test_minutes_that_are_too_few(data, tmp_path, capsys):
    assert train(arguments(data, tmp_path / "run", "--minutes 0.0001")) == 1
    assert "--minutes is too short" in capsys.readouterr().err
    assert not (tmp_path / "run/run.json").exists()


@pytest.mark.parametrize(
    ("more", "weights", "expected"),
    [
        ("", None, (128, 448, "SeparableRPNHead")),
        ("MODEL.FPN.OUT_CHANNELS 64", "imagenet", (64, 448, "SeparableRPNHead")),
        ("", "none", (256, 640, "StandardRPNHead")),
        ("", "another_project.pth", (256, 640, "StandardRPNHead")),
        ("MODEL.DEVICE cuda", None, (256, 640, "StandardRPNHead")),
    ],
)
def test_a_processor_trains_a_leaner_network_from_pretrained_weights(
    data, tmp_path, capsys, more, weights, expected
):
    cfg = prepare("mobilenetv2_fpn", data, output=tmp_path, weights=weights, overrides=more.split()).config
    assert expected == (cfg.MODEL.FPN.OUT_CHANNELS, cfg.FINETUNE.AUGMENT.CROP_SIZE, cfg.MODEL.RPN.HEAD_NAME)
    assert ("on a processor: a narrower network" in capsys.readouterr().err) == (expected[1] == 448)


def test_weights_of_a_run_bring_the_widths_of_its_network(data, whole, tmp_path, capsys):
    def widths(backbone: str, *overrides: str) -> tuple[int, int]:
        weights = str(whole / "model_best.safetensors")
        model = prepare(backbone, data, output=tmp_path, weights=weights, overrides=overrides).config.MODEL
        return model.FPN.OUT_CHANNELS, model.ROI_MASK_HEAD.CONV_DIM

    assert widths("mobilenetv2_fpn") == (16, 16)
    assert "on a processor: smaller crops" in capsys.readouterr().err
    assert widths("mobilenetv2_fpn", "MODEL.FPN.OUT_CHANNELS", "32") == (32, 16)
    assert widths("resnet50_fpn") == (256, 256)


def test_hard_negatives_are_mined_once_and_a_resumed_run_draws_the_same(data, tmp_path):
    some_empty = shutil.copytree(data, tmp_path / "data")
    split = json.loads((some_empty / "train.json").read_text())
    empty = {image["id"]: image["file_name"] for image in split["images"][:2]}
    split["annotations"] = [each for each in split["annotations"] if each["image_id"] not in empty]
    (some_empty / "train.json").write_text(json.dumps(split))
    more = f"{FOUR_STEPS} FINETUNE.NEGATIVE_SHARE 0.5 FINETUNE.HARD_NEGATIVES 8"
    runs = tmp_path / "whole", tmp_path / "resumed"
    assert train(arguments(some_empty, runs[0], more)) == 0
    assert train(arguments(some_empty, runs[1], f"--stop-after 2 {more}")) == 0
    assert train(resume_arguments(some_empty, runs[1])) == 0
    assert_equal_weights(*runs)
    mined, mined_again = (json.loads((run / "run.json").read_text())["false_scores"] for run in runs)
    assert mined == mined_again
    assert mined.keys() == {Path(name).name for name in empty.values()}
    assert any(score > 0 for score in mined.values())


@pytest.mark.parametrize(
    ("backbone", "more", "message"),
    [
        ("resnet50_fpn", "", "has the backbone mobilenetv2_fpn, not resnet50_fpn"),
        ("mobilenetv2_fpn", "--weights imagenet", "leave --weights out"),
        ("mobilenetv2_fpn", "SOLVER.MAX_ITER 9", "leave SOLVER.MAX_ITER out"),
        ("mobilenetv2_fpn", "--minutes 9", "leave --minutes out"),
    ],
)
def test_a_different_training_is_not_resumed_or_written_over(data, whole, capsys, backbone, more, message):
    before = (whole / "run.json").read_text()
    assert train(resume_arguments(data, whole, more, backbone)) == 1
    assert message in capsys.readouterr().err
    assert train(arguments(data, whole)) == 1
    assert "--resume" in capsys.readouterr().err
    assert (whole / "run.json").read_text() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("FINETUNE.OPTIMIZER adam", "FINETUNE.OPTIMIZER is adam: choose one of adamw, sgd"),
        ("FINETUNE.AMP fp32", "FINETUNE.AMP is fp32: choose one of auto, off"),
        ("FINETUNE.AMP fp16 MODEL.DEVICE cpu", "fp16 does not train on a CPU"),
        ("SOLVER.LR_SCHEDULER_NAME Cosine", "is Cosine: choose one of WarmupCosineLR"),
        ("SOLVER.BASE_LEARNING_RATE 1", "SOLVER.BASE_LEARNING_RATE"),
        ("--data nowhere", "nowhere"),
        ("--minutes 9 SOLVER.MAX_ITER 9", "--minutes sets SOLVER.MAX_ITER"),
        ("MODEL.ROI_HEADS.NUM_CLASSES 3", "has 1 classes"),
        ("--num-gpus 3", "SOLVER.IMS_PER_BATCH 2 cannot be divided evenly among 3"),
        ("--num-gpus 64 SOLVER.IMS_PER_BATCH 64 MODEL.DEVICE cuda", "64 training processes need a GPU each"),
        ("--num-gpus 2 MODEL.DEVICE cuda:1", "MODEL.DEVICE cuda:1 is one GPU, not 2"),
        ("--resume", "leave MODEL.FPN.OUT_CHANNELS out"),
    ],
)
def test_refused_before_anything_is_written(data, tmp_path, capsys, more, message):
    words = arguments(data, tmp_path / "run", more)
    if more == "--resume":
        words = [word for word in words if word not in ("--weights", "none")]
    assert train(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_two_trainings_in_one_folder(data, tmp_path, capsys):
    run = tmp_path / "busy"
    run.mkdir()
    with open(run / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert train(arguments(data, run)) == 1
    assert "another process" in capsys.readouterr().err


def test_a_loss_that_is_not_finite(data, tmp_path, capsys):
    keys = "SOLVER.BASE_LR 1e30 SOLVER.MAX_ITER 9 SOLVER.WARMUP_ITERS 0 SOLVER.CLIP_GRADIENTS.ENABLED False"
    assert train(arguments(data, tmp_path / "diverged", keys)) == 1
    error = capsys.readouterr().err
    assert "SOLVER.BASE_LR" in error
    assert "data check" in error


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the training ended early"
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.1)


def test_killed_then_resumed_then_interrupted(data, tmp_path):
    run = tmp_path / "run"
    words = arguments(data, run, f"{ENDLESS} DATALOADER.NUM_WORKERS 1")
    with subprocess.Popen(command(words), cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
        wait_for(run / "last.pth", process)
        tree = [process, *psutil.Process(process.pid).children(recursive=True)]
        for each in tree:  # a loader worker keeps the run locked for the seconds that it outlives its parent
            each.kill()
    psutil.wait_procs(tree[1:], timeout=10)
    step = last(run)["step"]
    assert "average" not in last(run), "no second model without FINETUNE.EMA_DECAY"

    for left in [run / "curves.png", *run.glob(".*.tmp")]:
        left.unlink(missing_ok=True)
    # as a shell's `&` starts it: with SIGINT ignored
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command(resume_arguments(data, run))]
    with subprocess.Popen(
        ignoring, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(run / "curves.png", process)  # a checkpoint has been written
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert output == ""
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert "\r" not in errors, "a pipe gets lines, not a bar"
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()]
    assert last(run)["step"] > step
    assert not list(run.glob(".*.tmp"))
    rows = [row["iteration"] for row in metrics(run)]
    assert rows == sorted(set(rows)), "no step is logged twice"
