"""The Prometheus page, with the metrics that ``templates/metrics.yaml`` declares to TorchServe."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Sequence

import psutil
import yaml

from serve_config.server.properties import METRICS
from serve_config.server.system_metrics import gpu_samples

BUCKETS = "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 +Inf".split()
"""Upper bounds, as TorchServe's."""


class Metrics:
    """Counters, gauges and histograms, each by the values of its labels; the last label is the host's name."""

    def __init__(self) -> None:
        declared = yaml.safe_load(METRICS.read_text(encoding="utf-8"))
        self.kinds: dict[str, str] = {}
        self.labels: dict[str, list[str]] = {}
        # metric → (suffix of its name, values of its labels) → value
        self.values: dict[str, dict[tuple[str, tuple[str, ...]], float]] = {}
        self.hostname = socket.gethostname()
        for section, last in (("ts_metrics", []), ("model_metrics", ["Hostname"])):
            for kind, metrics in declared[section].items():
                for metric in metrics:
                    name = metric["name"]
                    self.kinds[name], self.labels[name] = kind, [*metric["dimensions"], *last]
                    self.values[name] = defaultdict(float)

    def add(self, name: str, value: float, labels: Sequence[str]) -> None:
        """Add to a counter, set a gauge, or observe in a histogram; ``labels`` without the host's name."""
        values, written = (*labels, self.hostname), self.values[name]
        if self.kinds[name] == "gauge":
            written["", values] = value
        elif self.kinds[name] == "counter":
            written["", values] += value
        else:
            for bound in BUCKETS:
                written["_bucket", (*values, bound)] += value <= float(bound)
            written["_sum", values] += value
            written["_count", values] += 1

    def measure_machine(self) -> None:
        """Set the gauges of processor, memory, disk and GPUs."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        for name, value in {
            "CPUUtilization": psutil.cpu_percent(),
            "MemoryUsed": memory.used / 2**20,
            "MemoryAvailable": memory.available / 2**20,
            "MemoryUtilization": memory.percent,
            "DiskUsage": disk.used / 2**30,
            "DiskUtilization": disk.percent,
            "DiskAvailable": disk.free / 2**30,
        }.items():
            self.add(name, value, ["Host"])
        for name, value, _, index in gpu_samples():
            self.add(name, value, ["Host", index])

    def page(self) -> str:
        """In Prometheus' text format, without metrics that have no value yet."""
        lines = []
        for name, written in self.values.items():
            lines += [f"# TYPE {name} {self.kinds[name]}"] if written else []
            for (suffix, values), value in list(written.items()):
                pairs = zip([*self.labels[name], "le"], values)  # noqa: B905, only a bucket has `le`
                labels = ",".join(f'{key}="{text}"' for key, text in pairs)
                lines.append(f"{name}{suffix}{{{labels}}} {value:.15g}")
        return "\n".join([*lines, ""])
