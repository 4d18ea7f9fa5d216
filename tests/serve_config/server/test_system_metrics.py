"""TorchServe's view of the machine, with an nvidia-smi that is a script."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_config.server.properties import SYSTEM_METRICS, system_metrics_command, torchserve_home

HOST = "CPUUtilization MemoryUsed MemoryAvailable MemoryUtilization DiskUsage DiskUtilization DiskAvailable".split()
HOME = torchserve_home()
GPU = {"GPUUtilization", "GPUMemoryUsed", "GPUMemoryUtilization"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0, NVIDIA H200, 12, 3000, 120000", GPU),
        ("0, NVIDIA A100 MIG, [N/A], 3000, 120000", GPU - {"GPUUtilization"}),  # as a part of a GPU says
        ("No devices were found", set()),
    ],
)
def test_a_gpu_costs_no_other_metric(
    nvidia_smi: Callable[[str], Path], line: str, expected: set[str]
) -> None:
    """The collector as TorchServe runs it: a line for each metric, and for the memory of each worker."""
    nvidia_smi(f"echo '{line}'")
    command = [sys.executable, *system_metrics_command(SYSTEM_METRICS, HOME).split()]
    process, own_id = f"{os.getpid()}\n", str(os.getpid())
    answer = subprocess.run(command, cwd=HOME, input=process, capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")
    lines = {line.partition(".")[0].partition(":")[0]: line for line in answer.stdout.splitlines() if line}
    assert set(lines) == {*HOST, *expected, own_id}
    if expected:
        memory = lines["GPUMemoryUtilization"]
        assert memory.startswith("GPUMemoryUtilization.Percent:2.5|#Level:Host,DeviceId:0|")


def test_a_path_that_torchserve_would_split_is_not_given() -> None:
    assert system_metrics_command(Path("/a b/c.py"), Path("/d")) == ""
