"""TorchServe's view of the machine, with an nvidia-smi that is a script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_config.server.properties import SYSTEM_METRICS, system_metrics_command, torchserve_home

HOST = "CPUUtilization MemoryUsed MemoryAvailable MemoryUtilization DiskUsage DiskUtilization DiskAvailable".split()
HOME = torchserve_home()
GPU = {"GPUUtilization", "GPUMemoryUsed", "GPUMemoryUtilization"}


def collected(bin_folder: Path) -> dict[str, str]:
    """Run the collector as TorchServe does; the lines by metric, and the worker's memory by its process id."""
    answer = subprocess.run(
        [sys.executable, *system_metrics_command(SYSTEM_METRICS, HOME).split()],
        cwd=HOME,
        env={"PATH": f"{bin_folder}:{os.environ['PATH']}"},
        input=f"{os.getpid()}\n",
        capture_output=True,
        text=True,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    return {line.partition(".")[0].partition(":")[0]: line for line in answer.stdout.splitlines() if line}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0, NVIDIA H200, 12, 3000, 120000", GPU),
        ("0, NVIDIA A100 MIG, [N/A], 3000, 120000", GPU - {"GPUUtilization"}),  # as a part of a GPU says
        ("No devices were found", set()),
    ],
)
def test_a_gpu_costs_no_other_metric(tmp_path: Path, line: str, expected: set[str]) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{line}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    lines = collected(tmp_path)
    assert set(lines) == {*HOST, *expected, str(os.getpid())}
    if expected:
        assert lines["GPUMemoryUtilization"].startswith(
            "GPUMemoryUtilization.Percent:2.5|#Level:Host,DeviceId:0|"
        )


def test_a_path_that_torchserve_would_split_is_not_given() -> None:
    assert system_metrics_command(Path("/a b/c.py"), Path("/d")) == ""
