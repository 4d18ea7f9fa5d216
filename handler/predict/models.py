"""MODEL: an archive, a run, a published checkpoint, or the address of a running service."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from handler.api.errors import error_body
from handler.errors import PredictError
from handler.predict import worker
from handler.predict.job import Answers, Job, Model

REQUESTS = 8  # at once, to a service
FATAL = (0, 401, 403)  # the service is gone, or refuses the token: the next photo will fare no better
_VOLATILE = ("archive.json", "MAR-INF/", "openvino/trunk.")
"""Parts that differ between two exports of one run: dates, and the order in which OpenVINO writes the network."""


def open_model(job: Job, rooms: Any) -> Model:
    """The model of a job.

    A run or a checkpoint is exported, so its answers are those that it will give when served.

    Raises:
        PredictError, or the error of another room: there is no such model.
    """
    if job.model.startswith(("http://", "https://")):
        return _connect(job, rooms)
    path = Path(job.model)
    return _read(path if path.suffix == ".mar" else rooms.export_run(path), job)


def _read(path: Path, job: Job) -> Model:
    try:
        with zipfile.ZipFile(path) as file:
            card = json.loads(file.read("archive.json"))
            file.getinfo("model-config.yaml")
            parts = sorted((part.filename, part.CRC) for part in file.infolist())
        card.pop("created", None)
        same = [card, [part for part in parts if not part[0].startswith(_VOLATILE)]]
        identity = hashlib.sha256(json.dumps(same).encode()).hexdigest()
        if job.ray:
            from handler.predict import cluster  # needs Ray

            answer = partial(cluster.answers, path, job)
        else:
            answer = partial(_answers_here, path, job)
        return Model(identity, str(card["version"]), list(card["classes"]), answer)
    except OSError as error:
        raise PredictError(f"the archive {path} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise PredictError(
            f"{path} is not an archive of `maskrcnn export` ({error}): export it again"
        ) from error


def _answers_here(path: Path, job: Job, options: Mapping[str, str], photos: Sequence[str]) -> Answers:
    process = worker.PredictorProcess(
        str(path),
        Path(worker.__file__).read_text(encoding="utf-8"),
        options,
        threads=job.threads,
        batch_size=job.batch_size or 1,
        patience=job.stall_timeout,
    )
    with contextlib.closing(process):
        try:
            yield from process.answers(photos)
        except (RuntimeError, OSError) as error:  # OSError: no room to unpack it
            raise PredictError(str(error)) from error


def _connect(job: Job, rooms: Any) -> Model:
    """The service's default version; all photos are sent to it, even if another becomes the default meanwhile."""
    try:
        models = rooms.client(job.model, job.token, patience=0.0).models()
    except Exception as error:  # of the client's room, which this one does not import
        raise PredictError(f"{str(error).rstrip('.')}: check the address and --token") from error
    default = next((model for model in models if model["default"]), None)
    if not default:
        raise PredictError(f"the service at {job.model} has no model ready: start one, then try again")
    version = default["version"]
    client = rooms.client(job.model, job.token, patience=float(job.stall_timeout))

    def answers(options: Mapping[str, str], photos: Sequence[str]) -> Answers:
        def one(photo: str) -> Mapping[str, Any] | Exception:
            try:
                data = worker.read(photo)
            except Exception as error:  # whatever a file system raises concerns this photo alone
                return worker.unreadable(error)
            try:
                document: Mapping[str, Any] = client.predict(data, version=version, **options).document
                return document
            except Exception as error:
                return error

        with ThreadPoolExecutor(REQUESTS) as pool:
            for photo, answer in zip(photos, pool.map(one, photos), strict=True):
                if isinstance(answer, Exception):
                    answer = _refusal(answer)
                yield photo, dict(answer)

    return Model(f"{job.model.rstrip('/')} {version}", version, list(default["classes"]), answers)


def _refusal(error: Any) -> Mapping[str, Any]:
    if not hasattr(error, "status"):
        raise error
    if error.status in FATAL:
        reason = str(error).rstrip(".")
        raise PredictError(f"{reason}: see to that; the same command continues from what is written")
    return error_body(error.code, str(error), error.field)
