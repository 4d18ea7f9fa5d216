"""What is counted: the metrics' names and, for each batch, their new values. ``serve_config/templates/metrics.yaml``
declares the same to TorchServe.

Durations are counters of milliseconds, so that a rate over a rate is a mean over any window and any set of
workers; TorchServe's histograms have fixed buckets (0.005 to 10), which fit seconds and batch sizes, and only
those are histograms.
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
    dimensions: tuple[str, ...]
    meaning: str


METRICS = (
    Metric(
        "maskrcnn_requests_total",
        "counter",
        "count",
        ("version", "outcome", "reason"),
        "Requests, by how they ended.",
    ),
    Metric("maskrcnn_detections_total", "counter", "count", ("version",), "Instances in the answers."),
    Metric("maskrcnn_decode_milliseconds_total", "counter", "ms", ("version",), "Time from body to picture."),
    Metric(
        "maskrcnn_inference_milliseconds_total",
        "counter",
        "ms",
        ("version",),
        "Time in the network, per request of a batch its share.",
    ),
    Metric(
        "maskrcnn_postprocess_milliseconds_total",
        "counter",
        "ms",
        ("version",),
        "Time from detections to answer.",
    ),
    Metric("maskrcnn_batch_size", "histogram", "count", ("version",), "Requests handed over together."),
    Metric("maskrcnn_batch_seconds", "histogram", "s", ("version",), "Time in the handler, per batch."),
)


@dataclass(frozen=True)
class Sample:
    """A value to add to (a counter) or to observe in (a histogram) the metric of that name."""

    name: str
    value: float
    labels: tuple[str, ...]


def batch_samples(answers: Sequence[Answer], seconds: float, version: str) -> list[Sample]:
    """The samples of one batch that took ``seconds`` in the handler."""
    samples = [
        Sample("maskrcnn_requests_total", count, (version, outcome, reason))
        for (outcome, reason), count in Counter((answer.outcome, answer.reason) for answer in answers).items()
    ]
    answered = [answer for answer in answers if answer.outcome == "answered"]
    samples.append(
        Sample("maskrcnn_detections_total", sum(answer.instances for answer in answered), (version,))
    )
    for stage in STAGES:
        spent = sum(answer.timings_ms.get(stage, 0.0) for answer in answered)
        if stage == "inference" and answered:
            # the batch went through the network once, and each answer tells the whole time
            spent /= len(answered)
        samples.append(Sample(f"maskrcnn_{stage}_milliseconds_total", round(spent, 2), (version,)))
    samples.append(Sample("maskrcnn_batch_size", len(answers), (version,)))
    samples.append(Sample("maskrcnn_batch_seconds", round(seconds, 4), (version,)))
    return samples
