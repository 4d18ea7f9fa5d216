"""A batch of requests → a batch of answers. Nothing here knows TorchServe: another server needs only another skin.

::

    service = Service.load(Path("unpacked archive"))
    (answer,) = service.answer([Request({"image": Path("photo.jpg").read_bytes()})])

One request never harms another: each is decoded, and its answer encoded, inside its own ``try``. A batch that fails as
a whole is run again one by one, and only the image that fails by itself gets an error.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from handler.api import responses
from handler.api.errors import INTERNAL_ERROR, NoRoom, RequestError
from handler.api.options import IMAGE_OUTPUTS, Options, parse_options
from handler.api.request_parsing import parse_body
from handler.api.settings import Settings, parse_settings
from handler.imaging.decode import check_bytes, decode_at_least
from handler.model import Detections, Predictor, tiles
from handler.model.failures import is_broken_gpu, is_out_of_memory, release_memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One request as a server receives it; ``parts`` as in :mod:`handler.api.request_parsing`."""

    parts: Mapping[str, object]
    content_type: str = ""
    id: str = ""


@dataclass(frozen=True)
class Photo:
    """One decoded request.

    Attributes:
        id: the request's.
        pixels: (h, w, 3) uint8 RGB.
        size: (H, W) of the photo; its pixels may be decoded at half of it.
        options: validated.
        timings_ms: milliseconds by stage; each stage adds its own.
    """

    id: str
    pixels: np.ndarray
    size: tuple[int, int]
    options: Options
    timings_ms: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """One answer. ``outcome`` is answered, described, refused or failed; ``reason`` is the error's code, or "none".

    ``scores`` are those of the instances that the model's own options would show too.
    """

    status: int
    content_type: str
    body: bytes
    outcome: str = "answered"
    reason: str = "none"
    instances: int = 0
    scores: tuple[float, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)


class Service:
    """Decode, predict, encode. A request that is refused on the way travels on as its :class:`Answer`.

    Attributes:
        batch_size: the most requests that come together; the warm-up prepares for them.
        broken: the GPU is in a state that only a new process can recover from. Whoever runs the service sends what is
            answered and ends the process.
    """

    def __init__(self, predictor: Predictor, settings: Settings, batch_size: int = 1) -> None:
        self.predictor = predictor
        self.settings = settings
        self.batch_size = batch_size
        self.broken = False
        self._decoders = ThreadPoolExecutor(max(1, min(predictor.threads, batch_size)), "decode")
        self.classes: list[str] = list(predictor.card["classes"])

    @classmethod
    def load(
        cls,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        *,
        device: str | None = None,
        threads: int | None = None,
    ) -> Service:
        """Load an unpacked archive.

        Args:
            folder: the unpacked archive.
            config: the content of its ``model-config.yaml``; default: read from ``folder``.
            device: ``cpu``, ``cuda``, ``cuda:1``…; default: the GPU if there is one.
            threads: cores to use where ``handler.threads`` is not set; default: all that this process may run on.

        Raises:
            HandlerError: the archive or its settings cannot be used here.
        """
        from handler.archive import read_card
        from handler.model.predictor import Predictor as MaskRCNN

        if config is None:
            config = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8")) or {}
        card = read_card(folder)
        settings = parse_settings(config.get("handler"), card["classes"], card.get("operating_point"))
        predictor = MaskRCNN.load(
            folder,
            device=device,
            precision=settings.precision,
            engine=settings.engine,
            threads=settings.threads or threads,
            cuda_graphs=settings.cuda_graphs,
        )
        return cls(predictor, settings, int(config.get("batchSize") or 1))

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer a batch, in the order of the requests. Raises nothing."""
        photos = self.decode_all(requests)
        found = self.predict(photos)
        return [self.encode(photo, result) for photo, result in zip(photos, found, strict=True)]

    def decode_all(self, requests: Sequence[Request | Answer]) -> list[Photo | Answer]:
        """:meth:`decode` each request of a batch, side by side: decoders do not hold Python's lock."""
        if len(requests) == 1:  # a thread would only add its start
            return [self.decode(requests[0])]
        return list(self._decoders.map(self.decode, requests))

    def decode(self, request: Request | Answer) -> Photo | Answer:
        """Take a request apart and decode its image, or refuse it. An Answer passes through unchanged."""
        if isinstance(request, Answer):
            return request
        start = time.perf_counter()
        try:
            body = parse_body(request.parts, request.content_type)
            options = parse_options(body.options, self.classes, self.settings.options)
            max_bytes, max_pixels = self.settings.limits_of(options)
            check_bytes(body.image, max_bytes)
            whole = options.tiles or options.output in IMAGE_OUTPUTS or not self.settings.half_size_jpegs
            pixels, size = decode_at_least(
                body.image, max_pixels, None if whole else self.predictor.network_shape
            )
            tiles.check_number(pixels, options.tiles, self.settings.max_tiles)
        except Exception as error:
            return _refuse(request.id, error)
        return Photo(request.id, pixels, size, options, {"decode": _milliseconds_since(start)})

    def predict(self, photos: Sequence[Photo | Answer]) -> list[Detections | Answer]:
        """Run the network once over all photos of the batch. An Answer passes through unchanged."""
        waiting = [photo for photo in photos if isinstance(photo, Photo)]
        start = time.perf_counter()
        results = iter(self._detect(waiting) if waiting else ())
        found: list[Detections | Answer] = []
        for photo in photos:
            if isinstance(photo, Answer):
                found.append(photo)
                continue
            photo.timings_ms["inference"] = _milliseconds_since(start)
            result = next(results)
            found.append(_refuse(photo.id, result) if isinstance(result, Exception) else result)
        return found

    def encode(self, photo: Photo | Answer, found: Detections | Answer) -> Answer:
        """Write what was found as the request wants it. An Answer passes through unchanged."""
        if isinstance(photo, Answer):
            return photo
        if isinstance(found, Answer):
            return found
        try:
            found = found.scaled(photo.pixels.shape[:2], photo.size)
            content = responses.encode(
                photo.pixels, photo.size, found, photo.options, self.predictor.card, photo.timings_ms
            )
            responses.check_length(content, self.settings.max_response_bytes)
        except Exception as error:
            return _refuse(photo.id, error)
        spent = " ".join(f"{name}={value:.0f}ms" for name, value in photo.timings_ms.items())
        logger.info("request %s answered: instances=%d %s", photo.id, content.instances, spent)
        return Answer(
            200,
            content.content_type,
            content.body,
            instances=content.instances,
            scores=tuple(responses.select(found, self.settings.options).scores.tolist()),
            timings_ms=photo.timings_ms,
        )

    def describe(self) -> Answer:
        """The model's description: classes, limits, options with their defaults, AP, what it runs on."""
        running = {name: getattr(self.predictor, name) for name in ("precision", "engine", "threads")}
        running["device"] = str(self.predictor.device)
        document = responses.describe(self.predictor.card, self.settings, running)
        return Answer(200, responses.JSON_TYPE, responses.to_json(document), "described")

    def warm_up(self) -> None:
        """Predict images of each size in ``settings.warmup``, so that the first visitor does not wait."""
        for height, width in self.settings.warmup:
            try:
                self.predictor.warm_up(np.full((height, width, 3), 128, np.uint8), self.batch_size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning(
                    "%d images of %d × %d do not fit into memory: lower batchSize",
                    self.batch_size,
                    height,
                    width,
                )
            self._release_memory()
            buffer = io.BytesIO()
            Image.new("RGB", (width, height), "gray").save(buffer, "JPEG")
            (answer,) = self.answer([Request({"body": buffer.getvalue()}, id="warm-up")])
            if answer.status != 200:
                raise RuntimeError(f"the warm-up at {height} × {width} failed: {answer.reason}")

    def _detect(self, photos: list[Photo]) -> list[Detections | Exception]:
        """Detections, or what went wrong, for each photo."""
        if self.broken:  # by an earlier photo of the batch
            return [RuntimeError("the GPU is broken") for _ in photos]
        try:
            found = tiles.predict(
                self.predictor.predict,
                [photo.pixels for photo in photos],
                [photo.options.wanted for photo in photos],
                self.batch_size,
            )
            if len(found) != len(photos):
                raise RuntimeError(f"the predictor gave {len(found)} results for {len(photos)} images")
            return list(found)
        except Exception as error:
            out_of_memory = is_out_of_memory(error)
            failure = _no_room() if out_of_memory else error.with_traceback(None)
            self.broken |= is_broken_gpu(error)
            if len(photos) == 1 or not out_of_memory:
                logger.warning("a batch of %d failed", len(photos), exc_info=error)
        # outside of "except", where no traceback keeps the batch's tensors alive
        self._release_memory()
        if len(photos) == 1 or self.broken:
            return [failure] * len(photos)
        return [result for photo in photos for result in self._detect([photo])]

    def _release_memory(self) -> None:
        """Free what a failed batch left in caches. On a broken GPU that fails, too."""
        if self.broken:
            return
        try:
            release_memory()
        except Exception as error:
            logger.warning("memory was not released", exc_info=error)
            self.broken |= is_broken_gpu(error)


def unexpected() -> Answer:
    """The answer to an internal error, which shows nothing of it."""
    return Answer(500, responses.JSON_TYPE, responses.to_json(INTERNAL_ERROR), "failed", "internal_error")


def _refuse(request_id: str, error: Exception) -> Answer:
    if isinstance(error, MemoryError):
        error = _no_room()
    if isinstance(error, RequestError):
        logger.info("request %s refused: %d %s", request_id, error.status, error.code)
        outcome = "refused" if error.status < 500 else "failed"
        return Answer(error.status, responses.JSON_TYPE, responses.to_json(error.body()), outcome, error.code)
    logger.error("request %s failed", request_id, exc_info=error)
    return unexpected()


def _no_room() -> NoRoom:
    return NoRoom(
        "out_of_memory",
        "The image does not fit into the server's memory now; send a smaller one or try later.",
        "image",
    )


def _milliseconds_since(start: float) -> float:
    return round((time.perf_counter() - start) * 1e3, 2)
