"""The training command, run as a user runs it, on a toy model and a few drawn photos."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from finetune.cli import main
from finetune.errors import UserError
from finetune.files import write_atomically

REPOSITORY = Path(__file__).parents[3]
TOY = [
    "MODEL.FPN.OUT_CHANNELS",
    "16",
    "MODEL.ROI_MASK_HEAD.CONV_DIM",
    "16",
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    "32",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
    "100",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    "50",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    "20",
    "FINETUNE.AUGMENT.CROP_SIZE",
    "64",
    "INPUT.MIN_SIZE_TEST",
    "64",
    "SOLVER.IMS_PER_BATCH",
    "2",
    "DATALOADER.NUM_WORKERS",
    "0",
    "FINETUNE.AMP",
    "off",
    "SEED",
    "7",
]


def train_arguments(data: Path, run: Path, *more: str) -> list[str]:
    return [
        "train",
        "mobilenetv2_fpn",
        "--data",
        str(data),
        "--weights",
        "none",
        "--output",
        str(run),
        *more,
        *TOY,
    ]


def train(data: Path, run: Path, *more: str) -> int:
    return main(train_arguments(data, run, *more))


def command(data: Path, run: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "finetune", *train_arguments(data, run, *more)]


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def two_epochs(data, tmp_path_factory) -> Path:
    """An uninterrupted run of two epochs: 4 steps of 2 photos."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert (
        train(data, run, *["SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "2"])
        == 0
    )
    return run


def test_a_run_folder_is_complete(two_epochs, capsys):
    files = {path.name for path in two_epochs.iterdir()}
    assert {
        "config.yaml",
        "run.json",
        "metrics.json",
        "curves.png",
        "last.pth",
        "model_best.safetensors",
    } <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert not any(name.endswith(".tmp") for name in files)
    record = json.loads((two_epochs / "run.json").read_text())
    assert record["backbone"] == "mobilenetv2_fpn"
    assert record["classes"] == ["disc"]
    assert record["iterations"] == 4
    assert record["best"]["iteration"] in (2, 4)
    evaluated = [row["iteration"] + 1 for row in metrics(two_epochs) if "val/segm_AP" in row]
    assert evaluated == [2, 4]


def test_one_epoch_and_one_resumed_equal_two(data, two_epochs, tmp_path):
    run = tmp_path / "resumed"
    keys = ["SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "2"]
    assert train(data, run, "--stop-after", "2", *keys) == 0
    resume = ["train", "mobilenetv2_fpn", "--data", str(data), "--output", str(run), "--resume"]
    assert main(resume) == 0
    whole, resumed = (torch.load(folder / "last.pth", weights_only=True) for folder in (two_epochs, run))
    assert resumed["step"] == whole["step"] == 4
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    assert resumed["best"] == whole["best"]


@pytest.mark.parametrize(
    ("backbone", "extra", "said"),
    [
        ("resnet50_fpn", [], "has the backbone mobilenetv2_fpn, not resnet50_fpn"),
        ("mobilenetv2_fpn", ["--weights", "imagenet"], "leave --weights out"),
        ("mobilenetv2_fpn", ["SOLVER.MAX_ITER", "9"], "leave SOLVER.MAX_ITER out"),
    ],
)
def test_another_training_is_not_resumed(data, two_epochs, capsys, backbone, extra, said):
    before = (two_epochs / "run.json").read_text()
    arguments = ["train", backbone, "--data", str(data), "--output", str(two_epochs), "--resume", *extra]
    assert main(arguments) == 1
    assert said in capsys.readouterr().err
    assert (two_epochs / "run.json").read_text() == before


@pytest.mark.parametrize(
    ("key", "value"), [("OPTIMIZER", "adam"), ("AMP", "fp32"), ("SOLVER.LR_SCHEDULER_NAME", "Cosine")]
)
def test_a_word_that_is_not_known_is_refused_before_anything_is_loaded(data, tmp_path, capsys, key, value):
    key = key if "." in key else f"FINETUNE.{key}"
    assert main([*train_arguments(data, tmp_path / "run"), key, value]) == 1
    assert f"{key} is {value}: choose" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_torn_line_of_metrics_does_not_keep_a_run_from_going_on(data, tmp_path):
    run = tmp_path / "run"
    assert train(data, run, "--stop-after", "1", "SOLVER.MAX_ITER", "2") == 0
    with (run / "metrics.json").open("a") as file:
        file.write('{"iteration": 0, "total_lo')
    assert main(["train", "mobilenetv2_fpn", "--data", str(data), "--output", str(run), "--resume"]) == 0
    assert [row["iteration"] for row in metrics(run)] == [0, 1]


def test_more_workers_change_nothing(data, two_epochs, tmp_path):
    run = tmp_path / "workers"
    keys = [
        "DATALOADER.NUM_WORKERS",
        "2",
        "SOLVER.MAX_ITER",
        "4",
        "TEST.EVAL_PERIOD",
        "2",
        "SOLVER.CHECKPOINT_PERIOD",
        "2",
    ]
    arguments = train_arguments(data, run)
    assert main([*arguments, *keys]) == 0
    one, two = (torch.load(folder / "last.pth", weights_only=True)["model"] for folder in (two_epochs, run))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_killed_and_resumed(data, tmp_path):
    run = tmp_path / "killed"
    keys = ["SOLVER.MAX_ITER", "400", "TEST.EVAL_PERIOD", "0", "SOLVER.CHECKPOINT_PERIOD", "2"]
    process = subprocess.Popen(command(data, run, *keys), cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    wait_for(run / "last.pth", process)
    process.kill()
    process.wait()
    step = torch.load(run / "last.pth", weights_only=True)["step"]
    resume = [
        "train",
        "mobilenetv2_fpn",
        "--data",
        str(data),
        "--output",
        str(run),
        "--resume",
        "--stop-after",
        "2",
    ]
    assert main(resume) == 0
    assert torch.load(run / "last.pth", weights_only=True)["step"] == step + 2
    rows = [row["iteration"] for row in metrics(run)]
    assert rows == sorted(set(rows)), "no step is told twice"


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the training ended early"
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.1)


def test_ctrl_c_leaves_a_checkpoint_and_no_process(data, tmp_path):
    run = tmp_path / "stopped"
    keys = [
        "SOLVER.MAX_ITER",
        "400",
        "DATALOADER.NUM_WORKERS",
        "1",
        "TEST.EVAL_PERIOD",
        "0",
        "SOLVER.CHECKPOINT_PERIOD",
        "400",
    ]
    process = subprocess.Popen(
        [*command(data, run), *keys],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(run / "metrics.json", process)
    time.sleep(2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()]
    assert torch.load(run / "last.pth", weights_only=True)["step"] >= 1
    assert not list(run.glob(".*.tmp"))


def test_existing_run_is_not_overwritten(data, two_epochs, capsys):
    assert train(data, two_epochs) == 1
    assert "--resume" in capsys.readouterr().err


def test_two_trainings_in_one_folder(data, tmp_path, capsys):
    import fcntl

    run = tmp_path / "busy"
    run.mkdir()
    with open(run / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert train(data, run) == 1
    assert "another process is writing" in capsys.readouterr().err


def test_loss_that_is_no_number(data, tmp_path, capsys):
    run = tmp_path / "diverged"
    arguments = [
        *train_arguments(data, run),
        *["SOLVER.BASE_LR", "1e30", "SOLVER.MAX_ITER", "9", "SOLVER.WARMUP_ITERS", "0"],
    ]
    assert main([*arguments, "SOLVER.CLIP_GRADIENTS.ENABLED", "False"]) == 1
    error = capsys.readouterr().err
    assert "SOLVER.BASE_LR" in error
    assert "data check" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["SOLVER.BASE_LEARNING_RATE", "1"], "SOLVER.BASE_LEARNING_RATE"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER"),
        (["SOLVER.MAX_ITER"], "no value"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], "has 1 classes"),
        (["--num-gpus", "3"], "IMS_PER_BATCH"),
        (["--num-machines", "2", "--dist-url", "auto"], "--dist-url"),
        (["--resume"], "leave MODEL"),
    ],
)
def test_refused(data, tmp_path, capsys, more, message):
    options = [argument for argument in more if argument.startswith("--") or more[0].startswith("--")]
    keys = [argument for argument in more if argument not in options]
    assert main([*train_arguments(data, tmp_path / "run", *options), *keys]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert message in error
    assert not (tmp_path / "run").exists(), "nothing is left behind"


def test_unknown_backbone_and_missing_data(data, tmp_path, capsys):
    assert main(["train", "resnet18_fpn", "--data", str(data)]) == 1
    assert "mobilenetv2_fpn" in capsys.readouterr().err
    assert main(["train", "mobilenetv2_fpn", "--data", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


def test_a_full_disk_spares_what_was_there(tmp_path):
    path = tmp_path / "model_best.safetensors"
    path.write_text("good")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "good"
    assert [file.name for file in tmp_path.iterdir()] == ["model_best.safetensors"]
