"""Names and numbers: what the handler counts, what TorchServe is told of it, what the dashboard shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from handler.api.metrics import METRICS, STAGES, batch_samples
from handler.service import Answer

SERVE_CONFIG = Path(__file__).parents[3] / "serve_config"
DECLARED = yaml.safe_load((SERVE_CONFIG / "templates" / "metrics.yaml").read_text())


def test_torchserve_is_told_of_every_metric() -> None:
    declared = {
        (entry["name"], kind, entry["unit"], tuple(entry["dimensions"]))
        for kind, entries in DECLARED["model_metrics"].items()
        for entry in entries
        if entry["name"].startswith("maskrcnn_")
    }
    assert declared == {(m.name, m.kind, m.unit, m.dimensions) for m in METRICS}


def test_the_dashboard_shows_only_what_there_is_and_all_of_ours() -> None:
    dashboard = json.loads((SERVE_CONFIG / "deploy" / "grafana_dashboard.json").read_text())
    expressions = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    expressions = re.sub(r"by \([^)]*\)", "", expressions)  # labels are no metrics
    words = set(re.findall(r"\b(?:maskrcnn_|ts_)\w+|\b[A-Z]\w+(?=[){])", expressions))
    shown = {re.sub(r"_(bucket|sum|count)$", "", word) for word in words}
    frontend = {entry["name"] for entries in DECLARED["ts_metrics"].values() for entry in entries}
    assert shown <= {metric.name for metric in METRICS} | frontend
    assert {metric.name for metric in METRICS} <= shown
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(places) == len(set(places))


def answered(scores: tuple[float, ...], *milliseconds: float) -> Answer:
    timings = dict(zip(STAGES, milliseconds, strict=True))
    return Answer(200, "application/json", b"", scores=scores, timings_ms=timings)


def test_a_batch_in_numbers() -> None:
    refused = Answer(400, "application/json", b"", "refused", "invalid_option")
    answers = [answered((0.9, 0.7), 4.0, 200.0, 2.0), refused, answered((), 6.0, 200.0, 1.0), refused]
    samples = [((s.name, *s.labels), s.value) for s in batch_samples(answers, 0.25, "v")]
    assert [value for (name, *_), value in samples if name == "maskrcnn_objects"] == [2, 0]  # one per picture
    assert dict(samples) == {
        ("maskrcnn_requests_total", "v", "answered", "none"): 2,
        ("maskrcnn_requests_total", "v", "refused", "invalid_option"): 2,
        ("maskrcnn_decode_milliseconds_total", "v"): 10.0,
        ("maskrcnn_inference_milliseconds_total", "v"): 200.0,  # the batch went through the network once
        ("maskrcnn_postprocess_milliseconds_total", "v"): 3.0,
        ("maskrcnn_batch_size", "v"): 4,
        ("maskrcnn_batch_seconds", "v"): 0.25,
        ("maskrcnn_objects", "v"): 0,
        ("maskrcnn_uncertainty", "v"): 0.2,
    }


def test_labels_are_those_declared() -> None:
    counts = {metric.name: len(metric.dimensions) for metric in METRICS}
    for sample in batch_samples([answered((1.0,), 1, 1, 1)], 1, "v"):
        assert len(sample.labels) == counts[sample.name]
