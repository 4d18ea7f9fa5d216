"""MODEL: an archive, a run, a published checkpoint, or the address of a running service."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from handler.errors import PredictError
from handler.predict import remote, worker
from handler.predict.job import Answers, Job, Model

_VOLATILE = ("archive.json", "MAR-INF/", "openvino/trunk.")
"""What differs between two exports of one run: dates, and the order in which OpenVINO writes the same network."""


@contextlib.contextmanager
def opened(job: Job, rooms: Any) -> Iterator[Model]:
    """The model of a job.

    A run or a checkpoint is exported to a temporary archive, so its answers are those that it will give when served.

    Raises:
        PredictError, or the error of another room: there is no such model.
    """
    if job.model.startswith(("http://", "https://")):
        yield remote.connect(job, rooms)
        return
    with tempfile.TemporaryDirectory(prefix="maskrcnn-", ignore_cleanup_errors=True) as folder:
        path = Path(job.model)
        yield _read(path if path.suffix == ".mar" else rooms.export_run(path, Path(folder)), job)


def _read(path: Path, job: Job) -> Model:
    try:
        with zipfile.ZipFile(path) as file:
            card = json.loads(file.read("archive.json"))
            file.getinfo("model-config.yaml")
            parts = [
                (part.filename, part.CRC)
                for part in file.infolist()
                if not part.filename.startswith(_VOLATILE)
            ]
        card.pop("created", None)
        identity = hashlib.sha256(json.dumps([card, sorted(parts)]).encode()).hexdigest()
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
        except RuntimeError as error:
            raise PredictError(str(error)) from error
