"""A backbone that learns from a trained model's feature maps first."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from finetune.checkpoints.run import Run
from finetune.cli import main
from finetune.errors import UserError
from finetune.training.teacher import Teacher
from tests.finetune.training.test_training import TOY, metrics, train

HINTS = 10


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "teacher"
    assert train(data, run, "SOLVER.MAX_ITER", "1") == 0
    return run


def learn(data: Path, teacher: Path, run: Path, *more: str) -> int:
    words = ["train", "vovnet19_fpn", "--data", str(data), "--weights", "none", "--output", str(run), *TOY]
    words += [
        "FINETUNE.TEACHER",
        str(teacher),
        "FINETUNE.TEACHER_STEPS",
        str(HINTS),
        "SOLVER.BASE_LR",
        "0.002",
    ]
    return main([*words, "SOLVER.WARMUP_ITERS", "1", *more])


@pytest.fixture(scope="module")
def pupil(data: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "pupil"
    assert learn(data, teacher, run, "SOLVER.MAX_ITER", str(HINTS + 1), "TEST.EVAL_PERIOD", "1") == 0
    return run


def test_it_comes_nearer_to_the_teacher_before_it_detects(pupil: Path) -> None:
    losses = [row["loss_hint"] for row in metrics(pupil)[:HINTS]]
    assert losses[-1] < 0.9 * losses[0]
    assert "loss_mask" not in metrics(pupil)[HINTS - 1]
    assert "loss_mask" in metrics(pupil)[HINTS]


def test_the_heads_are_the_teachers_and_wait_until_the_hints_are_over(
    data: Path, teacher: Path, tmp_path: Path
) -> None:
    assert learn(data, teacher, tmp_path / "run", "SOLVER.MAX_ITER", str(HINTS)) == 0
    known, learnt = (load_file(run / "model_best.safetensors") for run in (teacher, tmp_path / "run"))
    heads = [name for name in known if not name.startswith("backbone.")]
    assert len(heads) == 26
    assert all(torch.equal(known[name], learnt[name]) for name in heads)
    [note] = [
        note
        for note in json.loads((tmp_path / "run/run.json").read_text())["init"]["notes"]
        if "teacher" in note
    ]
    assert "38 tensors" in note, "with the pyramid's, but for what reads the bottom-up part"


def test_a_copy_has_nothing_to_learn_from_its_original(teacher: Path) -> None:
    copy = Run.open(teacher).load_model()
    losses = Teacher(teacher, copy).hints(
        copy, [{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)}]
    )
    assert losses["loss_hint"].item() == 0


def test_a_resumed_run_goes_on_with_the_hints(data: Path, teacher: Path, pupil: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    keys = ["SOLVER.MAX_ITER", str(HINTS + 1), "TEST.EVAL_PERIOD", "1"]
    assert learn(data, teacher, run, *keys, "--stop-after", "3") == 0
    assert main(["train", "vovnet19_fpn", "--data", str(data), "--output", str(run), "--resume"]) == 0
    whole, resumed = (torch.load(path / "last.pth", weights_only=True)["model"] for path in (pupil, run))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_teacher_with_another_pyramid_is_refused(teacher: Path) -> None:
    student = Run.open(teacher).load_model()
    student.backbone._out_feature_channels = dict.fromkeys(student.backbone._out_feature_channels, 24)
    with pytest.raises(UserError, match=r"set MODEL\.FPN\.OUT_CHANNELS 16"):
        Teacher(teacher, student)


def test_a_teacher_is_not_for_several_processes(data: Path, teacher: Path, tmp_path: Path, capfd) -> None:
    assert learn(data, teacher, tmp_path / "run", "--num-gpus", "2") == 1
    assert "one process" in capfd.readouterr().err


def test_its_path_does_not_travel(teacher: Path, pupil: Path) -> None:
    assert yaml.safe_load((pupil / "config.yaml").read_text())["FINETUNE"]["TEACHER"] == str(teacher)
    assert str(teacher.parent) not in json.dumps([Run(pupil).recorded_config, Run(pupil).record])
