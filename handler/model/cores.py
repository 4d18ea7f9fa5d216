"""How many cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """The cores of this process's affinity, or fewer where its container has a quota.

    A container limited to 4 of 64 cores sees all 64: with a thread for each, it would wait for its next slice most of
    the time.
    The quota stands in ``cpu.max`` (cgroup v2, ``400000 100000`` or ``max 100000``, microseconds) or in
    ``cpu/cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` (v1, -1 for none).
    """
    cores = len(os.sched_getaffinity(0))
    for read in (_quota_v2, _quota_v1):
        try:
            quota, period = read(cgroup)
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            cores = min(cores, max(1, quota // period))
    return cores


def _quota_v2(cgroup: Path) -> tuple[int, int]:
    quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    return int(quota), int(period)


def _quota_v1(cgroup: Path) -> tuple[int, int]:
    quota, period = (
        int((cgroup / f"cpu/cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
    )
    return quota, period
