"""The Prometheus page, with the metrics that ``templates/metrics.yaml`` declares to TorchServe."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import psutil
import yaml
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from serve_config.server.properties import METRICS
from serve_config.server.system_metrics import gpu_samples

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)  # TorchServe's


class Metrics:
    """Counters, gauges and histograms, each by the values of its labels; the last label is the host's name."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self.metrics: dict[str, Counter | Gauge | Histogram] = {}
        self.hostname = socket.gethostname()
        declared = yaml.safe_load(METRICS.read_text(encoding="utf-8"))
        for section, last in (("ts_metrics", []), ("model_metrics", ["Hostname"])):
            for kind, metrics in declared[section].items():
                for metric in metrics:
                    name, labels = metric["name"], [*metric["dimensions"], *last]
                    self.metrics[name] = self._new(kind, name, metric["unit"], labels)

    def _new(self, kind: str, name: str, unit: str, labels: list[str]) -> Counter | Gauge | Histogram:
        if kind == "histogram":
            return Histogram(name, unit, labels, buckets=BUCKETS, registry=self.registry)
        # prometheus_client would add "_total" to the name of a counter that TorchServe writes without it
        counter = kind == "counter" and name.endswith("_total")
        return (Counter if counter else Gauge)(name, unit, labels, registry=self.registry)

    def add(self, name: str, value: float, labels: Sequence[str]) -> None:
        """Add to a counter, or observe in a histogram; ``labels`` without the host's name."""
        metric = self.metrics[name].labels(*labels, self.hostname)
        metric.observe(value) if isinstance(metric, Histogram) else metric.inc(value)

    def measure_machine(self) -> None:
        """Set the gauges of processor, memory, disk and GPUs."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        measured = {
            "CPUUtilization": psutil.cpu_percent(),
            "MemoryUsed": memory.used / 2**20,
            "MemoryAvailable": memory.available / 2**20,
            "MemoryUtilization": memory.percent,
            "DiskUsage": disk.used / 2**30,
            "DiskUtilization": disk.percent,
            "DiskAvailable": disk.free / 2**30,
        }
        samples = [(name, value, ["Host"]) for name, value in measured.items()]
        samples += [(name, value, ["Host", index]) for name, value, _, index in gpu_samples()]
        for name, value, labels in samples:
            gauge = self.metrics[name]
            assert isinstance(gauge, Gauge), f"metrics.yaml declares {name} as another kind"
            gauge.labels(*labels, self.hostname).set(value)

    def page(self) -> str:
        """In Prometheus' text format."""
        return generate_latest(self.registry).decode()
