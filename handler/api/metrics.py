"""What is counted: the metrics' names and, for each batch, their new values.

``serve_config/templates/metrics.yaml`` declares the same metrics to TorchServe. Durations are counters of
milliseconds, so that one rate divided by another is a mean over any window and any set of workers. TorchServe's
histograms have fixed buckets (0.005 to 10), finest near 0: they fit seconds, small counts, and 1 − score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

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
    Metric("maskrcnn_decode_milliseconds_total", "counter", "ms", "Time from request body to pixels."),
    Metric("maskrcnn_inference_milliseconds_total", "counter", "ms", "Time in the network, once per batch."),
    Metric("maskrcnn_postprocess_milliseconds_total", "counter", "ms", "Time from detections to answer."),
    Metric("maskrcnn_batch_size", "histogram", "count", "Requests in a batch."),
    Metric("maskrcnn_batch_seconds", "histogram", "s", "Time in the handler, per batch."),
    Metric("maskrcnn_objects", "histogram", "count", "Instances in a picture, by the model's own options."),
    Metric("maskrcnn_uncertainty", "histogram", "count", "1 − the mean score of these instances."),
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
    values: list[tuple[str, float]] = []
    for stage in STAGES:
        spent = sum(answer.timings_ms.get(stage, 0.0) for answer in answered)
        if stage == "inference" and answered:
            spent /= len(answered)  # each answer of a batch carries the time of the whole batch
        values.append((f"maskrcnn_{stage}_milliseconds_total", round(spent, 2)))
    values += [("maskrcnn_batch_size", len(counted)), ("maskrcnn_batch_seconds", round(seconds, 4))]
    for scores in (answer.scores for answer in answered):
        values.append(("maskrcnn_objects", len(scores)))
        values += [("maskrcnn_uncertainty", round(1 - fmean(scores), 4))] if scores else []
    ends = Counter((answer.outcome, answer.reason) for answer in counted)
    return [
        *(Sample("maskrcnn_requests_total", count, (version, *end)) for end, count in ends.items()),
        *(Sample(name, value, (version,)) for name, value in values),
    ]
