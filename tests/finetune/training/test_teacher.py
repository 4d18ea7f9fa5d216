"""A backbone that imitates a trained model's feature maps first."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from finetune.checkpoints.run import Run
from finetune.errors import UserError
from finetune.training.teacher import Teacher
from tests.finetune.training.test_training import (
    arguments,
    assert_equal_weights,
    metrics,
    resume_arguments,
    train,
)

HINTS = 10


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "teacher"
    assert train(arguments(data, run, "SOLVER.MAX_ITER 1")) == 0
    return run


def distill(data: Path, teacher: Path, run: Path, more: str) -> int:
    keys = f"FINETUNE.TEACHER {teacher} FINETUNE.TEACHER_STEPS {HINTS} SOLVER.BASE_LR 0.002 SOLVER.WARMUP_ITERS 1"
    return train(arguments(data, run, f"{keys} {more}", "vovnet19_fpn"))


@pytest.fixture(scope="module")
def student(data: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "student"
    assert distill(data, teacher, run, f"SOLVER.MAX_ITER {HINTS + 1} TEST.EVAL_PERIOD 1") == 0
    return run


def test_hints_come_first_then_detection(student: Path) -> None:
    losses = [row["loss_hint"] for row in metrics(student)[:HINTS]]
    assert losses[-1] < 0.9 * losses[0]
    assert "loss_mask" not in metrics(student)[HINTS - 1]
    assert "loss_mask" in metrics(student)[HINTS]


def test_the_teachers_heads_are_copied_and_wait_until_the_hints_are_over(
    data: Path, teacher: Path, student: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    keys = f"SOLVER.MAX_ITER {HINTS + 1} TEST.EVAL_PERIOD 1"
    assert distill(data, teacher, run, f"--stop-after 3 {keys}") == 0
    known, learned = (load_file(path / "model_best.safetensors") for path in (teacher, run))
    heads = [name for name in known if not name.startswith("backbone.")]
    assert len(heads) == 26
    assert all(torch.equal(known[name], learned[name]) for name in heads)
    notes = json.loads((run / "run.json").read_text())["init"]["notes"]
    assert any("38 tensors" in note for note in notes), (
        "the pyramid's, too, but for what reads the bottom-up network"
    )

    assert train(resume_arguments(data, run, backbone="vovnet19_fpn")) == 0
    assert_equal_weights(student, run)


def test_a_copy_has_nothing_to_learn_from_its_original(teacher: Path) -> None:
    copy = Run.open(teacher, ["MODEL.DEVICE", "cpu"]).load_model()
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    assert Teacher(teacher, copy).hints(copy, [{"image": image}])["loss_hint"].item() == 0


def test_a_teacher_with_another_pyramid_is_refused(teacher: Path) -> None:
    student = Run.open(teacher, ["MODEL.DEVICE", "cpu"]).load_model()
    student.backbone._out_feature_channels = dict.fromkeys(student.backbone._out_feature_channels, 24)
    with pytest.raises(UserError, match=r"set MODEL\.FPN\.OUT_CHANNELS 16"):
        Teacher(teacher, student)


def test_a_teacher_is_not_for_several_processes(data: Path, teacher: Path, tmp_path: Path, capfd) -> None:
    assert distill(data, teacher, tmp_path / "run", "--num-gpus 2") == 1
    assert "one process" in capfd.readouterr().err


def test_its_path_does_not_travel(teacher: Path, student: Path) -> None:
    assert yaml.safe_load((student / "config.yaml").read_text())["FINETUNE"]["TEACHER"] == str(teacher)
    assert str(teacher.parent) not in json.dumps([Run(student).recorded_config, Run(student).record])
