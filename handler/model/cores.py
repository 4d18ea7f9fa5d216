"""How many cores this process may really use."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """The cores that this process may run on, or fewer where its container has a quota.

    A container limited to 4 of 64 cores sees all 64; with a thread for each, it would spend most of its time waiting
    for its next slice. The quota is in ``cpu.max`` (cgroup v2, ``400000 100000`` or ``max 100000``, microseconds) or in
    ``cpu/cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` (v1, -1 for none).
    """
    process = psutil.Process()
    affinity = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None  # macOS has none
    cores = len(affinity or ()) or psutil.cpu_count() or 1
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = map(int, " ".join((cgroup / name).read_text() for name in files).split())
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            cores = min(cores, max(1, quota // period))
    return cores
