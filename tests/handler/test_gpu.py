"""A real GPU finds what the CPU finds, and its failures are found out. ``make gpu-check`` runs the same steps."""

from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu_steps
from tests.benchmarks.gpu_check import run_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def test_gpu_equals_cpu(tmp_path: Path) -> None:
    gpu_steps.equality(gpu_steps.Setting(tmp_path, dry_run=False))


@pytest.mark.parametrize("step", ["accuracy", "failures"])
def test_precisions_and_failures(step: str) -> None:
    outcome = run_step(step, dry_run=False)  # in another process, as a failure breaks the GPU for good
    assert outcome["result"] == "passed", outcome
