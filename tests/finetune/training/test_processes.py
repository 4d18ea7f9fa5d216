"""Training in several processes, on one machine and on two (of loopback): as users start it, with gloo."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
import torch
from detectron2.modeling import build_model

from finetune.configs.keys import read_config
from tests.finetune.training.test_training import REPOSITORY, command, metrics, wait_for

pytestmark = pytest.mark.slow

LEARN = ["SOLVER.MAX_ITER", "20", "SOLVER.BASE_LR", "0.001", "SOLVER.WARMUP_ITERS", "5"]
LEARN += ["SOLVER.IMS_PER_BATCH", "4", "TEST.EVAL_PERIOD", "0"]
ENDLESS = ["SOLVER.MAX_ITER", "4000", "TEST.EVAL_PERIOD", "0", "SOLVER.CHECKPOINT_PERIOD", "2"]
TOLERANCE = 0.05  # of the loss: which proposals are learned from is drawn anew in every process
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, cwd=REPOSITORY, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def two_machines(data: Path, runs: list[Path], keys: list[str]) -> list[subprocess.Popen[str]]:
    """The same command twice, as on two machines that meet at a port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    return [
        start(
            [
                *command(data, run, "--num-machines", "2", "--machine-rank", str(rank), "--dist-url", url),
                *keys,
            ]
        )
        for rank, run in enumerate(runs)
    ]


def losses(run: Path) -> list[float]:
    return [row["total_loss"] for row in metrics(run) if "total_loss" in row]


def trained_weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.pth", weights_only=True)["model"]


def first_weights(run: Path) -> dict[str, torch.Tensor]:
    """The random weights that a run without --weights started from."""
    cfg = read_config(run / "config.yaml")
    torch.manual_seed(cfg.SEED)
    return build_model(cfg).state_dict()


def test_two_processes_and_two_machines_learn_like_one(data: Path, tmp_path: Path) -> None:
    one, two, torchrun, first, second = (
        tmp_path / name for name in ("one", "two", "torchrun", "first", "second")
    )
    for run, more in ((one, []), (two, ["--num-gpus", "2"])):
        subprocess.run(
            [*command(data, run, *more), *LEARN], cwd=REPOSITORY, check=True, env=ENVIRONMENT, timeout=200
        )
    line = command(data, torchrun)
    module = line.index("-m")
    elastic = [
        line[0],
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        *line[module:],
    ]
    subprocess.run([*elastic, *LEARN], cwd=REPOSITORY, check=True, env=ENVIRONMENT, timeout=200)
    machines = two_machines(data, [first, second], LEARN)
    said = [machine.communicate(timeout=200) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert not second.exists(), "rank 0 alone writes"
    assert said[0][0].splitlines()[-1] == str(first)
    assert said[1][0] == ""

    assert losses(one)[1] < 0.95 * losses(one)[0], "it did learn"
    start_weights = first_weights(one)
    moved = {
        run: torch.cat(
            [(trained_weights(run)[name] - start_weights[name]).flatten() for name in start_weights]
        )
        for run in (one, two, torchrun, first)
    }
    for run in (two, torchrun, first):
        assert len(losses(run)) == 2, "rank 0 alone writes"
        assert losses(run) == pytest.approx(losses(one), rel=TOLERANCE)
        assert torch.nn.functional.cosine_similarity(moved[one], moved[run], dim=0) > 0.8
    # how the same two processes were started makes no difference at all
    assert torch.equal(moved[two], moved[first])
    assert torch.equal(moved[two], moved[torchrun])


def test_a_killed_process_ends_the_job_and_it_goes_on(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    process = start([*command(data, run, "--num-gpus", "2"), *ENDLESS])
    wait_for(run / "last.pth", process)
    ranks = [
        child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())
    ]
    assert len(ranks) == 2
    max(ranks, key=lambda child: child.pid).send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    told = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1
    assert "was killed by SIGKILL" in told[0]
    assert "--resume" in told[0]
    psutil.wait_procs(ranks, timeout=10)
    assert not [child for child in ranks if child.is_running()]
    resume(data, run, "--num-gpus", "2")


def test_a_lost_machine_ends_the_job_of_the_other(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "shared"
    machines = two_machines(data, [run, run], ENDLESS)
    wait_for(run / "last.pth", machines[0])
    tree = psutil.Process(machines[1].pid)
    for process in [*tree.children(recursive=True), tree]:
        process.kill()
    machines[1].communicate()
    _, errors = machines[0].communicate(timeout=60)
    assert machines[0].returncode == 1, errors
    assert "Traceback" not in errors
    (told,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert "another machine" in told
    assert "--resume" in told
    resume(data, run)


def resume(data: Path, run: Path, *more: str) -> None:
    """Two steps more, in as many processes as one likes."""
    step = torch.load(run / "last.pth", weights_only=True)["step"]
    arguments = ["train", "mobilenetv2_fpn", "--data", str(data), "--output", str(run), "--resume", *more]
    line = [*command(data, run)[:3], *arguments, "--stop-after", "2"]
    subprocess.run(line, cwd=REPOSITORY, check=True, env=ENVIRONMENT, timeout=200)
    assert torch.load(run / "last.pth", weights_only=True)["step"] == step + 2
    rows = [row["iteration"] for row in metrics(run)]
    assert rows == sorted(set(rows)), "no step is told twice"
