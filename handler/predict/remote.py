"""A running service as the model: its public API predicts the photos."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from handler.api.errors import error_body
from handler.errors import PredictError
from handler.predict.job import Answers, Job, Model
from handler.predict.worker import read, unreadable

REQUESTS = 8  # at once
FATAL = (0, 401, 403)  # the service is gone, or refuses the token: the next photo will fare no better


def connect(job: Job, rooms: Any) -> Model:
    """The service's default version; all photos are sent to it, even if another becomes the default meanwhile.

    Args:
        rooms: its ``client`` makes a client of the public API.

    Raises:
        PredictError: the service cannot be used.
    """
    try:
        models = rooms.client(job.model, job.token, patience=0.0).models()
    except Exception as error:  # of the client's room, which this one does not import
        raise PredictError(f"{str(error).rstrip('.')}: check the address and --token") from error
    default = next((model for model in models if model["default"]), None)
    if not default:
        raise PredictError(f"the service at {job.model} has no model ready: start one, then try again")
    client, version = (
        rooms.client(job.model, job.token, patience=float(job.stall_timeout)),
        default["version"],
    )

    def answers(options: Mapping[str, str], photos: Sequence[str]) -> Answers:
        def one(photo: str) -> Mapping[str, Any] | Exception:
            try:
                data = read(photo)
            except Exception as error:  # whatever a file system raises concerns this photo alone
                return unreadable(error)
            try:
                document: Mapping[str, Any] = client.predict(data, version=version, **options).document
                return document
            except Exception as error:
                return error

        with ThreadPoolExecutor(REQUESTS) as pool:
            for photo, answer in zip(photos, pool.map(one, photos), strict=True):
                if isinstance(answer, Exception):
                    answer = _refusal(answer)
                yield photo, dict(answer), time.time()

    return Model(f"{job.model.rstrip('/')} {version}", version, list(default["classes"]), answers)


def _refusal(error: Any) -> Mapping[str, Any]:
    if not hasattr(error, "status"):
        raise error
    if error.status in FATAL:
        reason = str(error).rstrip(".")
        raise PredictError(f"{reason}: see to that; the same command continues from what is written")
    return error_body(error.code, str(error), error.field)
