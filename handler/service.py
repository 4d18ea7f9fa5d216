"""A batch of requests → a batch of answers. Nothing here knows TorchServe: another server needs only another
skin.

One request never harms another: each is decoded, and its answer encoded, inside its own ``try``; a batch that
fails as a whole is run again one by one, and only the picture that fails by itself is told so.
"""

from __future__ import annotations

import gc
import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from handler.api import responses
from handler.api.errors import INTERNAL_ERROR, NoRoom, RequestError
from handler.api.options import Options, parse_options
from handler.api.request_parsing import parse_body
from handler.api.settings import Settings
from handler.imaging.decode import decode_image
from handler.model.detections import Detections

logger = logging.getLogger(__name__)


class Predictor(Protocol):
    """What the service needs of :class:`handler.model.predictor.Predictor`."""

    classes: list[str]
    card: dict

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]: ...


@dataclass(frozen=True)
class Request:
    """One request as a server hands it over; ``parts`` as in :mod:`handler.api.request_parsing`."""

    parts: Mapping[str, object]
    content_type: str = ""
    id: str = ""


@dataclass(frozen=True)
class Answer:
    """One answer. ``outcome`` is answered, refused or failed; ``reason`` is the error's code, or "none"."""

    status: int
    content_type: str
    body: bytes
    outcome: str = "answered"
    reason: str = "none"
    instances: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass
class _Job:
    """A request on its way: decoded, or already answered."""

    request: Request
    image: np.ndarray | None = None
    options: Options = field(default_factory=Options)
    timings_ms: dict[str, float] = field(default_factory=dict)
    answer: Answer | None = None


class Service:
    """The four verbs in a row: take apart, decode, predict, encode."""

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        self.predictor = predictor
        self.settings = settings
        self.classes = list(predictor.classes)
        self.model = responses.model_card(predictor.card)

    def warm_up(self) -> None:
        """Run every size of ``settings.warmup`` once, from bytes to bytes, for the first visitor."""
        for height, width in self.settings.warmup:
            buffer = io.BytesIO()
            Image.new("RGB", (width, height), "gray").save(buffer, "JPEG")
            (answer,) = self.answer([Request({"body": buffer.getvalue()}, id="warm-up")])
            if answer.status != 200:
                raise RuntimeError(f"the warm-up at {height} × {width} failed: {answer.reason}")

    def describe(self, **running: Any) -> bytes:
        """The model's description as JSON."""
        return responses.to_json(responses.describe(self.predictor.card, self.settings, **running))

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer a batch; the answers stand in the order of the requests, and nothing is raised."""
        jobs = [self._decode(request) for request in requests]
        waiting = [job for job in jobs if job.answer is None]
        if waiting:
            start = time.perf_counter()
            results = self._predict([job.image for job in waiting if job.image is not None])
            inference = _milliseconds_since(start)
            for job, result in zip(waiting, results, strict=True):
                job.timings_ms["inference"] = inference
                job.answer = (
                    _refuse(job.request, result)
                    if isinstance(result, BaseException)
                    else self._encode(job, result)
                )
                job.image = None  # the next one's memory
        return [job.answer for job in jobs if job.answer is not None]

    def _decode(self, request: Request) -> _Job:
        job = _Job(request)
        start = time.perf_counter()
        try:
            limits = self.settings
            body = parse_body(request.parts, request.content_type, limits.max_image_bytes)
            job.options = parse_options(body.options, self.classes, limits.options)
            job.image = decode_image(body.image, limits.max_image_bytes, limits.max_image_pixels)
            job.timings_ms["decode"] = _milliseconds_since(start)
        except Exception as error:
            job.answer = _refuse(request, error)
        return job

    def _predict(self, images: list[np.ndarray]) -> list[Detections | Exception]:
        """Detections, or what went wrong, for each picture."""
        try:
            return list(self.predictor.predict(images))
        except Exception as error:
            failure = (
                NoRoom(
                    "out_of_memory",
                    "The picture does not fit into the server's memory now; send a smaller one or try later.",
                    "image",
                )
                if is_out_of_memory(error)
                else error.with_traceback(None)
            )
            if len(images) == 1 or not is_out_of_memory(error):
                logger.warning("a batch of %d failed", len(images), exc_info=error)
        # outside of "except", where no traceback holds the batch's tensors any more
        release_memory()
        if len(images) == 1:
            return [failure]
        return [result for image in images for result in self._predict([image])]

    def _encode(self, job: _Job, detections: Detections) -> Answer:
        start = time.perf_counter()
        try:
            assert job.image is not None
            chosen = responses.select(detections, job.options)
            content = responses.encode(job.image, chosen, job.options, self.classes)
            job.timings_ms["postprocess"] = _milliseconds_since(start)
            if isinstance(content, dict):
                document = {"model": self.model, **content, "timings_ms": job.timings_ms}
                content = responses.Content(
                    responses.to_json(document), responses.JSON_TYPE, len(chosen.boxes)
                )
            responses.check_length(content, self.settings.max_response_bytes)
        except Exception as error:
            return _refuse(job.request, error)
        spent = " ".join(f"{name}={value:.0f}ms" for name, value in job.timings_ms.items())
        logger.info("request %s answered: instances=%d %s", job.request.id, content.instances, spent)
        return Answer(
            200, content.content_type, content.body, instances=content.instances, timings_ms=job.timings_ms
        )


def _refuse(request: Request, error: BaseException) -> Answer:
    if isinstance(error, MemoryError):
        error = NoRoom(
            "out_of_memory",
            "The picture does not fit into the server's memory now; send a smaller one.",
            "image",
        )
    if isinstance(error, RequestError):
        logger.info("request %s refused: %d %s", request.id, error.status, error.code)
        outcome = "refused" if error.status < 500 else "failed"
        return Answer(error.status, responses.JSON_TYPE, responses.to_json(error.body()), outcome, error.code)
    logger.error("request %s failed", request.id, exc_info=error)
    return unexpected()


def unexpected() -> Answer:
    """The answer to a fault of ours, which shows nothing of it."""
    return Answer(500, responses.JSON_TYPE, responses.to_json(INTERNAL_ERROR), "failed", "internal_error")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, CUDA's (``torch.OutOfMemoryError``), or PyTorch's for the CPU."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text))
    )


def release_memory() -> None:
    """Give back what a failed batch left in caches."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _milliseconds_since(start: float) -> float:
    return round((time.perf_counter() - start) * 1e3, 2)
