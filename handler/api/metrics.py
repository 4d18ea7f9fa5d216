"""What is counted: the metrics' names and, for each batch, their new values.

``serve_config/templates/metrics.yaml`` declares the same metrics to TorchServe. Durations are counters of
milliseconds, so that one rate divided by another is a mean over any window and any set of workers. TorchServe's
histograms have fixed buckets (0.005 to 10), which fit only seconds and batch sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from handler.service import Answer

STAGES = ("decode", "inference", "postprocess")


@dataclass(frozen=True)
class Metric:
    """One metric: ``kind`` is counter or histogram; ``dimensions`` are its labels."""

    name: str
    kind: str
    unit: str
    meaning: str
    dimensions: tuple[str, ...] = ("version",)


METRICS = (
    Metric(
        "maskrcnn_requests_total",
        "counter",
        "count",
        "Requests, by how they ended.",
        ("version", "outcome", "reason"),
    ),
    Metric("maskrcnn_detections_total", "counter", "count", "Instances in the answers."),
    Metric("maskrcnn_decode_milliseconds_total", "counter", "ms", "Time from request body to pixels."),
    Metric(
        "maskrcnn_inference_milliseconds_total",
        "counter",
        "ms",
        "Time in the network, each batch counted once.",
    ),
    Metric("maskrcnn_postprocess_milliseconds_total", "counter", "ms", "Time from detections to answer."),
    Metric("maskrcnn_batch_size", "histogram", "count", "Requests in a batch."),
    Metric("maskrcnn_batch_seconds", "histogram", "s", "Time in the handler, per batch."),
)


@dataclass(frozen=True)
class Sample:
    """A value to add to a counter, or to observe in a histogram."""

    name: str
    value: float
    labels: tuple[str, ...]


def batch_samples(answers: Sequence[Answer], seconds: float, version: str) -> list[Sample]:
    """The samples of one batch that took ``seconds`` in the handler; descriptions are not counted."""
    counted = [answer for answer in answers if answer.outcome != "described"]
    if not counted:
        return []
    answered = [answer for answer in counted if answer.outcome == "answered"]
    values: dict[str, float] = {"maskrcnn_detections_total": sum(answer.instances for answer in answered)}
    for stage in STAGES:
        spent = sum(answer.timings_ms.get(stage, 0.0) for answer in answered)
        if stage == "inference" and answered:
            spent /= len(answered)  # each answer of a batch carries the time of the whole batch
        values[f"maskrcnn_{stage}_milliseconds_total"] = round(spent, 2)
    values |= {"maskrcnn_batch_size": len(counted), "maskrcnn_batch_seconds": round(seconds, 4)}
    ends = Counter((answer.outcome, answer.reason) for answer in counted)
    return [
        *(Sample("maskrcnn_requests_total", count, (version, *end)) for end, count in ends.items()),
        *(Sample(name, value, (version,)) for name, value in values.items()),
    ]
