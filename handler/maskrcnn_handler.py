"""TorchServe's entry point. TorchServe wants exactly one class in this module."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import socket
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handler.model import Detections
    from handler.service import Answer, Photo

logger = logging.getLogger(__name__)

SECONDS_TO_SEND = 1.0
"""How long a worker that must end still lives if TorchServe does not take the last answers from its socket."""


class MaskRCNNHandler:
    """Serve a Detectron2 Mask R-CNN archive with TorchServe.

    Quick start::

        maskrcnn export runs/resnet50_fpn       # writes model_store/maskrcnn_resnet50_fpn.mar
        maskrcnn serve start                    # TorchServe, with every archive of model_store/
        maskrcnn serve ask photo.jpg            # the same as POST /predictions/maskrcnn with an inference key

    The flow. ``initialize`` runs once in each worker; then TorchServe calls ``handle`` with a batch of requests::

        initialize   model-config.yaml → settings; archive → network on its device; one warm-up prediction
        handle       one list in, one list of the same length out:
          preprocess   request → RGB pixels and options, or a refusal (400, 413, 415, 422)
          inference    one run of the network over all images of the batch
          postprocess  detections → JSON, COCO results or a PNG

    The work is done by :class:`handler.service.Service`, which does not know TorchServe. This class translates
    requests, status codes, content types and metrics.

    TorchServe's rules (read in its source, 0.12.0):

    - ``handle(data, context)`` gets one mapping (part name → value) per request.
    - An exception that leaves ``handle`` fails the whole batch with a 5xx, so none does. A request's own status is
      set on the context.
    - A worker is restarted when its connection closes, so one whose GPU has failed answers its batch and ends.
    - ``GET /models/maskrcnn?customized=true`` arrives in a batch as well, marked by the header ``describe``.
    - The archive carries its own ``handler`` and ``finetune`` packages. Its folder must be first on ``sys.path``
      before any of them is imported, so imports are inside the methods.

    Settings, in the ``handler`` section of ``model-config.yaml`` (:mod:`handler.api.settings` explains each)::

        handler:
          precision: auto               # auto, fp32, bf16, fp16, int8
          engine: auto                  # auto, torch, openvino
          cuda_graphs: false            # on a GPU: replay the layers as CUDA graphs
          threads: null                 # cores of one worker; null divides the cores among the workers
          max_image_bytes: 20971520     # 413 above
          max_image_pixels: 25000000    # 422 above, before decoding
          max_tiled_bytes: 67108864     # the same for a request with tiles
          max_tiled_pixels: 100000000   # the same for a request with tiles
          max_tiles: 200                # 422 above
          max_response_bytes: 62914560  # 422 above
          half_size_jpegs: true         # decode large JPEGs at half their size
          warmup: [[768, 1024]]         # [height, width] to predict while loading
          options: {}                   # defaults for a request's options

    TorchServe's own keys stand beside that section: ``minWorkers``, ``maxWorkers``, ``batchSize``, ``maxBatchDelay``
    (milliseconds), ``responseTimeout`` and ``startupTimeout`` (seconds). The environment variable ``MASKRCNN_WORKERS``
    overrides the number of workers among which the cores are divided.
    """

    def initialize(self, context: Any) -> None:
        """Load the archive in ``context`` and warm it up. Whatever this raises keeps the worker down."""
        start = time.perf_counter()
        properties = context.system_properties
        folder = Path(properties["model_dir"]).resolve()
        sys.path.insert(0, str(folder))

        from handler.service import Service

        config = context.model_yaml_config or {}
        device = _device(properties.get("gpu_id"))
        self.service = Service.load(folder, config, device=device, threads=_fair_threads(config))
        self.version = str(self.service.predictor.card["version"])
        self._register_metrics(context.metrics)
        self.service.warm_up()
        logger.info("%s is ready on %s after %.1f s", self.version, device, time.perf_counter() - start)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch: one body per request; status and content type are set on ``context``. Raises nothing."""
        start = time.perf_counter()
        try:
            answers = self.postprocess(self.inference(self.preprocess(data, context)))
        except Exception:
            from handler.service import unexpected

            logger.exception("the batch %s failed", context.request_ids)
            answers = [unexpected()] * len(data)
        for index, answer in enumerate(answers):
            context.set_response_status(answer.status, HTTPStatus(answer.status).phrase, index)
            context.set_response_content_type(index, answer.content_type)
        self._record(answers, time.perf_counter() - start)
        if self.service.broken:
            logger.critical("the GPU failed: this worker ends, and TorchServe starts another")
            _end_after_answering(context)
        return [answer.body for answer in answers]

    def preprocess(self, data: list[dict[str, Any]], context: Any) -> list[Photo | Answer]:
        """Decode each request. One that is refused, or asks for the description, is answered here."""
        from handler.service import Request

        requests: list[Request | Answer] = []
        for index, parts in enumerate(data):
            headers = _headers(context, index)
            if headers.get("describe") == "True" and "explain" not in headers:
                requests.append(self.service.describe())
                continue
            request_id = _request_id(headers, context.get_request_id(index) or "")
            requests.append(Request(parts, headers.get("content-type", ""), request_id))
        return self.service.decode_all(requests)

    def inference(self, photos: list[Photo | Answer]) -> list[tuple[Photo | Answer, Detections | Answer]]:
        """Run the network over the batch; pair each photo with what was found in it."""
        return list(zip(photos, self.service.predict(photos), strict=True))

    def postprocess(self, found: list[tuple[Photo | Answer, Detections | Answer]]) -> list[Answer]:
        """Write each result in the format that its request asked for."""
        return [self.service.encode(photo, detections) for photo, detections in found]

    def _register_metrics(self, cache: Any) -> None:
        """Get our metrics from TorchServe's cache; add those that its metrics.yaml does not declare."""
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

    def _record(self, answers: list[Answer], seconds: float) -> None:
        from handler.api.metrics import batch_samples

        try:
            for sample in batch_samples(answers, seconds, self.version):
                self.metrics[sample.name].add_or_update(sample.value, list(sample.labels))
        except Exception:  # a metric that cannot be written is no reason to lose answers
            logger.exception("the batch's metrics were not recorded")


def _end_after_answering(context: Any) -> None:
    """End this process once TorchServe has the answers, so that no other request reaches a broken GPU.

    TorchServe's worker ends when it cannot read another message. Its socket is closed for reading alone, so the answers
    are still sent. CUDA's own teardown, which may hang, is left out.
    """
    timer = threading.Timer(SECONDS_TO_SEND, os._exit, (1,))
    timer.daemon = True
    timer.start()
    atexit.register(os._exit, 1)
    with contextlib.suppress(OSError):  # TorchServe is gone already
        context.cl_socket.shutdown(socket.SHUT_RD)


def _headers(context: Any, index: int) -> dict[str, str]:
    """The headers of one request by lower-case name (TorchServe keeps the client's spelling).

    TorchServe puts a dict for each part of the body into the same mapping; those are not headers.
    """
    headers = context.get_all_request_header(index)
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


def _request_id(headers: dict[str, str], own: str) -> str:
    """TorchServe's id, after the caller's ``X-Request-ID`` if that is safe to log.

    One search then finds a request in the logs of the page, of the worker and of TorchServe.
    """
    given = headers.get("x-request-id", "")
    return f"{given}/{own}" if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else own


def _device(gpu_id: int | None) -> str:
    """The device that TorchServe assigned to this worker; it assigns no GPU where ``deviceType`` is cpu.

    Raises:
        DeviceError: torch cannot use the GPU; the CPU in its place would be slow without anyone knowing why.
    """
    import torch

    from handler.errors import DeviceError

    if gpu_id is None:
        return "cpu"
    if not torch.cuda.is_available():
        raise DeviceError(
            f"TorchServe assigned GPU {gpu_id}, but torch {torch.__version__} cannot use it: install a driver that "
            "fits it, or set deviceType: cpu in model-config.yaml"
        )
    return f"cuda:{gpu_id}"


def _fair_threads(config: dict[str, Any]) -> int:
    """This worker's share of the cores that the process may use.

    TorchServe does not tell a worker how many there are. ``MASKRCNN_WORKERS`` does, for a server started with its own
    number of workers; otherwise the archive's ``model-config.yaml``; otherwise there is one.
    """
    from handler.errors import SettingsError
    from handler.model.cores import usable_cores

    workers = max(int(config.get("maxWorkers") or 1), int(config.get("minWorkers") or 1))
    if given := os.environ.get("MASKRCNN_WORKERS"):
        if not given.isdecimal() or int(given) < 1:
            raise SettingsError(f"MASKRCNN_WORKERS must be a whole number above 0, not {given!r}")
        workers = int(given)
    return max(1, usable_cores() // workers)
