"""A Python client for the public API. It needs only requests and numpy.

::

    from web_client.client import Client

    client = Client("http://127.0.0.1:5000", token="mrcnn_…")
    prediction = client.predict("photo.jpg", score_threshold=0.7)
    for instance in prediction.instances:
        print(instance.class_name, instance.score, instance.mask.sum())

    for path, prediction in client.predict_many(Path("photos").glob("*.jpg")):
        ...
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests

API = "/api/v1"
RETRIED = (429, 502, 503, 504)
DEFAULT_WAIT = 2.0  # seconds, where the server gives no Retry-After


class ClientError(Exception):
    """The server refused a request or could not be reached.

    Attributes:
        status: the HTTP status; 0 if there was no answer.
        code: the server's name for the error, such as ``image_too_large``.
        field: the form field at fault, if any.
        retry_after: seconds after which another try makes sense, if it does.
    """

    def __init__(
        self,
        message: str,
        status: int = 0,
        code: str = "unreachable",
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.retry_after = retry_after


@dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        box: x1, y1, x2, y2 in pixels.
        area: of the mask, in pixels.
        mask: (H, W) bool, of the whole picture; None unless ``mask_format`` is ``rle``.
    """

    id: int
    class_id: int
    class_name: str
    score: float
    box: tuple[float, float, float, float]
    area: int
    mask: np.ndarray | None


@dataclass(frozen=True)
class Prediction:
    """The objects of one picture, by falling score; ``document`` is the server's JSON."""

    version: str
    width: int
    height: int
    instances: list[Instance]
    mask_fraction: float
    document: Mapping[str, Any]


class Client:
    """A connection pool for one server; several threads may use it.

    Args:
        url: the server's address, such as ``https://masks.example.com``.
        token: what `maskrcnn web token add` printed, if the server asks for one.
        timeout: seconds to wait for one answer.
        patience: seconds to spend on one picture, tries and waits together.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 160.0, patience: float = 300.0
    ) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.patience = patience
        self._session = requests.Session()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def predict(self, image: str | Path | bytes, *, version: str | None = None, **options: Any) -> Prediction:
        """Find the objects in one picture.

        Args:
            image: a path, or the file's bytes.
            version: a model version; default: the server's.
            options: ``score_threshold``, ``max_detections``, ``classes`` (names or ids), ``tiles`` (their side),
                ``mask_format`` (``rle``; ``none``; ``polygon`` gives no arrays, but the outlines in
                ``Prediction.document``).

        Raises:
            ClientError: refused, or not answered within ``patience``.
            OSError: the file cannot be read.
        """
        if options.get("mask_format") == "png" or "output" in options:
            raise ValueError("this client reads neither output nor mask_format png: use requests for them")
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        name = "image" if isinstance(image, bytes) else Path(image).name
        fields = {
            key: _field(value) for key, value in {"version": version, **options}.items() if value is not None
        }
        return _prediction(self._send("POST", "/predict", data=fields, files={"image": (name, data)}))

    def predict_many(
        self, images: Iterable[str | Path], *, workers: int = 8, **options: Any
    ) -> Iterator[tuple[str | Path, Prediction | ClientError]]:
        """Predict several files at once; yields each with its prediction or error, in the order given."""

        def one(path: str | Path) -> tuple[str | Path, Prediction | ClientError]:
            try:
                return path, self.predict(path, **options)
            except ClientError as error:
                return path, error

        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(one, images)

    def models(self) -> list[dict[str, Any]]:
        """The versions that are ready, each with its classes and limits."""
        models: list[dict[str, Any]] = self._send("GET", "/models")["models"]
        return models

    def _send(self, method: str, path: str, **kwargs: Any) -> Any:
        """The JSON of the answer; waits and tries again where the server says that this helps."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return self._once(method, path, kwargs)
            except ClientError as error:
                if error.retry_after is None or time.monotonic() + error.retry_after > deadline:
                    raise
                time.sleep(error.retry_after)

    def _once(self, method: str, path: str, kwargs: dict[str, Any]) -> Any:
        server = f"the server at {self.url}"
        try:
            response = self._session.request(
                method, self.url + API + path, headers=self._headers, timeout=self.timeout, **kwargs
            )
        except requests.ConnectionError:
            raise ClientError(f"{server} cannot be reached", retry_after=DEFAULT_WAIT) from None
        except requests.Timeout:
            raise ClientError(f"{server} did not answer within {self.timeout:g} s") from None
        status = response.status_code
        try:
            body = response.json()
            if status == 200:
                return body
            error = body["error"]
            refusal = error["message"], status, error["code"], error["field"]
        except (ValueError, KeyError, TypeError):
            message = f"{server} does not speak version 1 of this API"
            raise ClientError(message, status, "not_this_api") from None
        wait = float(response.headers.get("Retry-After", DEFAULT_WAIT)) if status in RETRIED else None
        raise ClientError(*refusal, wait)


def _field(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _prediction(document: Mapping[str, Any]) -> Prediction:
    instances = [
        Instance(
            **{name: entry[name] for name in ("id", "class_id", "class_name", "score", "area")},
            box=tuple(entry["box"]),
            mask=decode_rle(entry["mask"]) if "counts" in (entry.get("mask") or {}) else None,
        )
        for entry in document["instances"]
    ]
    version, image = document["model"]["version"], document["image"]
    return Prediction(
        version, image["width"], image["height"], instances, document["mask_fraction"], document
    )


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """COCO's compressed run lengths (``{"size": [H, W], "counts": "…"}``) → (H, W) bool.

    The counts alternate between background and object, column by column, beginning with background. Each is written
    in base 32, lowest digit first, as characters from 48 on: 5 bits, and a sixth that says that more follow. From the
    third count on, the difference from the count before last is written (pycocotools' ``rleFrString``).
    """
    height, width = rle["size"]
    counts: list[int] = []
    value = shift = 0
    for character in rle["counts"]:
        digit = ord(character) - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:  # negative
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value = shift = 0
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T
