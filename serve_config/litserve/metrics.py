"""The Prometheus page, with the metrics that ``templates/metrics.yaml`` declares to TorchServe."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Sequence

import psutil
import yaml

from serve_config.server.properties import METRICS
from serve_config.server.system_metrics import gpu_samples

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds, as TorchServe's."""


class Metrics:
    """Counters, gauges and histograms by name and label values; the last label of each is the host's name."""

    def __init__(self) -> None:
        declared = yaml.safe_load(METRICS.read_text(encoding="utf-8"))
        self.kinds: dict[str, str] = {}
        self.labels: dict[str, list[str]] = {}
        self.values: dict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
        self.hostname = socket.gethostname()
        for section, last in (("ts_metrics", []), ("model_metrics", ["Hostname"])):
            for kind, metrics in declared[section].items():
                for metric in metrics:
                    self.kinds[metric["name"]] = kind
                    self.labels[metric["name"]] = [*metric["dimensions"], *last]

    def add(self, name: str, value: float, labels: Sequence[str]) -> None:
        """Add to a counter, set a gauge, or observe in a histogram; ``labels`` without the host's name."""
        values = (*labels, self.hostname)
        kind = self.kinds[name]
        if kind == "gauge":
            self.values[name, values] = value
        elif kind == "counter":
            self.values[name, values] += value
        else:
            for bound in (*BUCKETS, float("inf")):
                self.values[f"{name}_bucket", (*values, f"{bound:g}".replace("inf", "+Inf"))] += (
                    value <= bound
                )
            self.values[f"{name}_sum", values] += value
            self.values[f"{name}_count", values] += 1

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
        """In Prometheus' text format."""
        lines = []
        for name, kind in self.kinds.items():
            lines.append(f"# TYPE {name} {kind}")
            names = (
                [name] if kind != "histogram" else [f"{name}_{part}" for part in ("bucket", "sum", "count")]
            )
            for (written, values), value in self.values.items():
                if written in names:
                    keys = [*self.labels[name], "le"] if written.endswith("_bucket") else self.labels[name]
                    labels = ",".join(f'{key}="{value}"' for key, value in zip(keys, values, strict=True))
                    lines.append(f"{written}{{{labels}}} {value:g}")
        return "\n".join([*lines, ""])
