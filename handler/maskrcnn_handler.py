"""TorchServe's entry point: a thin skin that translates its calls. The work is done by modules that do not
know TorchServe.

TorchServe wants exactly one class in this module. Its rules, read in its source (0.12.0):

- ``initialize(context)`` is called once in each worker; ``handle(data, context)`` gets a list with one
  mapping per request and must return a list of the same length.
- An exception that leaves ``handle`` fails the whole batch with a 5xx, so none does; a request's own status
  is set on the context.
- A request for a description (``GET /models/maskrcnn?customized=true``) comes the same way, marked by a
  header.

The archive carries its own ``handler`` and ``finetune`` packages: its folder goes first on ``sys.path``,
before anything of them is imported. That is why the imports stand inside ``initialize``.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class MaskRCNNHandler:
    """Loads the archive's predictor and answers batches with it."""

    def initialize(self, context: Any) -> None:
        """Load the model of ``context`` and warm it up; what is raised keeps the worker down."""
        properties = context.system_properties
        folder = Path(properties["model_dir"]).resolve()
        sys.path.insert(0, str(folder))

        from handler.api.settings import parse_settings
        from handler.model.predictor import Predictor
        from handler.service import Service

        config = context.model_yaml_config or {}
        classes = json.loads((folder / "archive.json").read_text(encoding="utf-8"))["classes"]
        settings = parse_settings(config.get("handler"), classes)
        device = _device(properties.get("gpu_id"))
        threads = settings.threads or _fair_threads(config)
        predictor = Predictor.load(
            folder, device=device, precision=settings.precision, engine=settings.engine, threads=threads
        )
        self.service = Service(predictor, settings)
        self.version = str(predictor.card.get("version"))
        self.running = {"device": device, "threads": threads} | {
            name: str(getattr(predictor, name))
            for name in ("precision", "engine")
            if hasattr(predictor, name)
        }
        self._register_metrics(context.metrics)
        start = time.perf_counter()
        self.service.warm_up()
        logger.info(
            "%s is ready on %s; the warm-up took %.1f s", self.version, device, time.perf_counter() - start
        )

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch: a body per request, status and content type set on ``context``. Raises nothing."""
        start = time.perf_counter()
        from handler.api.responses import JSON_TYPE
        from handler.service import Answer, Request, unexpected

        answers: list[Answer | None] = [None] * len(data)
        try:
            predictions = []
            for index, parts in enumerate(data):
                headers = _headers(context, index)
                if headers.get("describe") == "True" and "explain" not in headers:
                    answers[index] = Answer(200, JSON_TYPE, self.describe_handle(), "described")
                else:
                    request_id = _request_id(headers, context.get_request_id(index) or "")
                    predictions.append((index, Request(parts, headers.get("content-type", ""), request_id)))
            for (index, _), answer in zip(
                predictions, self.service.answer([request for _, request in predictions]), strict=True
            ):
                answers[index] = answer
        except Exception:
            logger.exception("the batch %s failed", context.request_ids)
        whole = [answer or unexpected() for answer in answers]
        for index, answer in enumerate(whole):
            context.set_response_status(answer.status, HTTPStatus(answer.status).phrase, index)
            context.set_response_content_type(index, answer.content_type)
        self._record(context.metrics, whole, time.perf_counter() - start)
        return [answer.body for answer in whole]

    def describe_handle(self) -> bytes:
        """The model's description: class names, limits, options and defaults, SHA-256, AP."""
        return self.service.describe(**self.running)

    def _register_metrics(self, cache: Any) -> None:
        """Fetch our metrics from TorchServe's cache, adding those that its metrics.yaml does not declare."""
        from ts.metrics.metric_type_enum import MetricTypes

        from handler.api.metrics import METRICS

        self.metrics = {}
        for metric in METRICS:
            kind = MetricTypes(metric.kind)
            declared = metric.name in cache.cache.get(kind, {})
            self.metrics[metric.name] = (
                cache.get_metric(metric.name, kind)
                if declared
                else cache.add_metric_to_cache(metric.name, metric.unit, list(metric.dimensions), kind)
            )

    def _record(self, cache: Any, answers: list[Any], seconds: float) -> None:
        from handler.api.metrics import batch_samples

        try:
            counted = [answer for answer in answers if answer.outcome != "described"]
            for sample in batch_samples(counted, seconds, self.version) if counted else ():
                self.metrics[sample.name].add_or_update(sample.value, list(sample.labels))
        except Exception:  # a metric that cannot be written is no reason to lose answers
            logger.exception("the batch's metrics were not recorded")


def _headers(context: Any, index: int) -> dict[str, str]:
    """The headers of one request by lower-case name: TorchServe keeps the client's spelling.

    TorchServe puts a dict for each part of the body into the same mapping; those are no headers.
    """
    headers = context.get_all_request_header(index)
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


def _request_id(headers: dict[str, str], own: str) -> str:
    """TorchServe's id, and before it the caller's ``X-Request-ID``, if that is fit for a log: one search finds
    a request in the logs of the page, of the worker and of TorchServe.
    """
    given = headers.get("x-request-id", "")
    return f"{given}/{own}" if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else own


def _device(gpu_id: int | None) -> str:
    """The device that TorchServe gave this worker; none without a GPU or where ``deviceType`` is cpu."""
    import torch

    return f"cuda:{gpu_id}" if gpu_id is not None and torch.cuda.is_available() else "cpu"


def _fair_threads(config: dict[str, Any]) -> int:
    """This worker's share of the cores that the process may use."""
    from handler.model.cores import usable_cores

    workers = max(int(config.get("maxWorkers") or 1), int(config.get("minWorkers") or 1), 1)
    return max(1, usable_cores() // workers)
