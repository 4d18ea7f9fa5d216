"""Training in several processes with gloo."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import torch
from detectron2.modeling import build_model

from finetune.configs.keys import read_config
from tests.finetune.training.test_training import (
    ENDLESS,
    REPOSITORY,
    arguments,
    command,
    last,
    metrics,
    resume_arguments,
    wait_for,
)

pytestmark = pytest.mark.slow

LEARN = (
    "SOLVER.MAX_ITER 20 SOLVER.BASE_LR 0.001 SOLVER.WARMUP_ITERS 5 SOLVER.IMS_PER_BATCH 4 TEST.EVAL_PERIOD 0"
)
TORCHRUN = "-m torch.distributed.run --nproc-per-node 2 --standalone"
TOLERANCE = 0.05  # of the loss: every process samples its own proposals
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(words: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=REPOSITORY, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


def finish(words: list[str]) -> None:
    subprocess.run(words, cwd=REPOSITORY, check=True, env=ENVIRONMENT, timeout=200)


def losses(run: Path) -> list[float]:
    return [row["total_loss"] for row in metrics(run) if "total_loss" in row]


def first_weights(run: Path) -> dict[str, torch.Tensor]:
    """The random weights that a run without --weights started from."""
    cfg = read_config(run / "config.yaml")
    torch.manual_seed(cfg.SEED)
    return build_model(cfg).state_dict()


def test_two_processes_learn_like_one(data, tmp_path):
    one, two, torchrun = (tmp_path / name for name in ("one", "two", "torchrun"))
    finish(command(arguments(data, one, LEARN)))
    finish(command(arguments(data, two, f"--num-gpus 2 {LEARN}")))
    python, *module = command(arguments(data, torchrun, LEARN))
    finish([python, *TORCHRUN.split(), *module])

    assert losses(one)[1] < 0.95 * losses(one)[0], "it did learn"
    initial = first_weights(one)
    moved = {
        run: torch.cat([(last(run)["model"][name] - initial[name]).flatten() for name in initial])
        for run in (one, two, torchrun)
    }
    for run in (two, torchrun):
        assert len(losses(run)) == 2, "rank 0 alone writes"
        assert losses(run) == pytest.approx(losses(one), rel=TOLERANCE)
        assert torch.nn.functional.cosine_similarity(moved[one], moved[run], dim=0) > 0.8
    assert torch.equal(moved[two], moved[torchrun]), "how they were started makes no difference"


def test_two_processes_agree_on_the_steps_that_fit(data, tmp_path):
    run = tmp_path / "run"
    finish(command(arguments(data, run, "--num-gpus 2 --minutes 9 --stop-after 1")))
    assert last(run)["step"] == 1


def test_a_killed_process_ends_the_job_which_is_resumed_and_stopped(data, tmp_path):
    run = tmp_path / "run"
    process = start(command(arguments(data, run, f"--num-gpus 2 {ENDLESS}")))
    wait_for(run / "last.pth", process)
    ranks = [
        child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())
    ]
    assert len(ranks) == 2
    max(ranks, key=lambda child: child.pid).send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (error,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert "was killed by SIGKILL" in error
    assert "--resume" in error
    psutil.wait_procs(ranks, timeout=10)
    assert not [child for child in ranks if child.is_running()]
    resume(data, run, "--num-gpus 2")

    step = last(run)["step"]
    (run / "curves.png").unlink(missing_ok=True)
    process = start(command(resume_arguments(data, run, "--num-gpus 2")))
    wait_for(run / "curves.png", process)  # a checkpoint has been written
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert f"--resume --output {run}" in errors
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()]
    assert last(run)["step"] > step


def resume(data: Path, run: Path, more: str = "") -> None:
    """Take two more steps, in as many processes as asked for."""
    step = last(run)["step"]
    finish(command(resume_arguments(data, run, f"--stop-after 2 {more}")))
    assert last(run)["step"] == step + 2
    rows = [row["iteration"] for row in metrics(run)]
    assert rows == sorted(set(rows)), "no step is logged twice"
