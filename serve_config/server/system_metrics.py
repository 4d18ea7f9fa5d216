"""What TorchServe runs once a minute to measure the machine: its own collector, without its two GPU packages.

TorchServe's ``ts/metrics/system_metrics.py`` imports ``nvgpu`` and ``pynvml`` where there is a GPU; without them it
fails, and the metrics of processor, memory and disk are lost as well (pytorch/serve#1516). nvidia-smi says the same.

TorchServe starts this file by its path, in a folder from which it cannot import ``serve_config``.
"""

from __future__ import annotations

import subprocess
import sys

# what is asked of nvidia-smi, in this order
FIELDS = ("index", "name", "utilization.gpu", "memory.used", "memory.total")


def query_gpus() -> list[list[str]]:
    """The values of FIELDS for each GPU, percent and MiB as text; none without a working nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines()]
    return [line for line in lines if len(line) == len(FIELDS)]


def gpu_samples() -> list[tuple[str, float, str, str]]:
    """(metric, value, unit, GPU's index) for each number that nvidia-smi knows; it prints ``[N/A]`` for others."""
    samples = []
    for index, _, busy, used, total in query_gpus():
        if busy.isdecimal():
            samples.append(("GPUUtilization", float(busy), "percent", index))
        if used.isdecimal() and total.isdecimal():
            samples.append(("GPUMemoryUsed", float(used), "MB", index))
            samples.append(("GPUMemoryUtilization", 100 * int(used) / int(total), "percent", index))
    return samples


def main() -> None:
    """Print the machine's metrics, then the memory of the workers whose process ids come on stdin."""
    import logging

    from ts.metrics import system_metrics
    from ts.metrics.dimension import Dimension
    from ts.metrics.metric import Metric
    from ts.metrics.process_memory_metric import check_process_mem_usage

    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    system_metrics.system_metrics += [
        Metric(name, value, unit, [Dimension("Level", "Host"), Dimension("DeviceId", index)])
        for name, value, unit, index in gpu_samples()
    ]
    system_metrics.collect_all(system_metrics, num_of_gpu=0)
    check_process_mem_usage(sys.stdin)


if __name__ == "__main__":
    main()
