"""One job: list the photos, skip what is done, predict the rest, write.

Every photo is in the output exactly once, with its instances or with its error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
import zipfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from handler.api.errors import RequestError, error_body
from handler.api.options import FormText, Options, parse_options
from handler.errors import PredictError
from handler.predict.sources import list_photos
from handler.predict.writers import Store, write_coco, write_parquet

Answer = tuple[str, dict[str, Any], float]
"""Photo, its answer as the server's JSON, and the Unix time of the answer."""
Answers = Generator[Answer, None, None]

DIED = error_body("worker_died", "The predictor crashed or hung on this image each time it was tried.")


@dataclass(frozen=True)
class Job:
    """The command line."""

    archive: Path
    sources: Sequence[str]
    output: str
    options: Mapping[str, str] = field(default_factory=dict)
    format: str = "coco"
    overlay: bool = False
    threads: int | None = None
    batch_size: int | None = None
    ray: str | None = None
    shard_size: int = 1000
    stall_timeout: int = 300


@dataclass(frozen=True)
class Model:
    """An archive, as a job needs it."""

    data: bytes
    sha256: str
    version: str
    classes: list[str]


def run(job: Job) -> str:
    """Run the job; return the path of what it made.

    Raises:
        PredictError: something that the user can fix.
        KeyboardInterrupt: what was answered is written.
    """
    if job.overlay and (job.ray or "://" in job.output):
        raise PredictError("--overlay does not work with --ray, nor with a URI as --output: leave it out")
    model = read_model(job.archive)
    options = {"mask_format": "rle", **job.options}
    chosen = _checked(options, model.classes)
    if job.format == "coco" and chosen.mask_format == "png":
        raise PredictError("COCO has no --mask-format png: choose rle, polygon or none, or --format parquet")
    if job.format == "parquet":
        import pyarrow  # noqa: F401 # to fail before the work if it is missing
    photos = list_photos(*job.sources)
    about = {
        "archive_sha256": model.sha256,
        "version": model.version,
        "options": options,
        "overlay": job.overlay,
    }
    store = Store(job.output, about, job.shard_size)
    with store.exclusive():
        done = store.done()
        waiting = [photo for photo in photos if photo not in done]
        if done:
            print(f"{len(photos) - len(waiting)} of {len(photos)} photos are done already", file=sys.stderr)
        if waiting:
            _predict(job, model, options, waiting, photos, store)
        target = (
            f"{job.output.rstrip('/')}/" + {"coco": "coco.json", "parquet": "instances.parquet"}[job.format]
        )
        if job.format == "coco":
            write_coco(store, target, model.classes, chosen.mask_format)
        else:
            write_parquet(store, target)
        return target


def read_model(path: Path) -> Model:
    """Read an archive.

    Raises:
        PredictError: the file is not an archive.
    """
    try:
        data = path.read_bytes()
        with zipfile.ZipFile(path) as file:
            card = json.loads(file.read("archive.json"))
            file.getinfo("model-config.yaml")
        return Model(data, hashlib.sha256(data).hexdigest(), str(card["version"]), list(card["classes"]))
    except OSError as error:
        raise PredictError(f"the archive {path} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise PredictError(
            f"{path} is not an archive of `maskrcnn export` ({error}): export it again"
        ) from error


def _checked(options: Mapping[str, str], classes: Sequence[str]) -> Options:
    try:
        return parse_options({name: FormText(value) for name, value in options.items()}, classes)
    except RequestError as error:
        raise PredictError(error.message.rstrip(".")) from error


def _predict(
    job: Job,
    model: Model,
    options: Mapping[str, str],
    waiting: list[str],
    photos: list[str],
    store: Store,
) -> None:
    if job.ray:
        from handler.predict import cluster

        answers = cluster.answers(job, model, options, waiting, fresh=len(waiting) == len(photos))
    else:
        from handler.predict import local

        overlays = local.overlay_paths(Path(job.output) / "overlays", photos) if job.overlay else {}
        answers = local.answers(job, options, waiting, overlays)
    errors, moments, begun = 0, [], time.perf_counter()
    total, done = len(photos), len(photos) - len(waiting)
    progress = tqdm(total=total, initial=done, unit="photo", smoothing=0.05, desc=model.version)
    with contextlib.closing(answers), progress:
        try:
            for photo, document, moment in answers:
                store.add(photo, document)
                moments.append(moment)
                errors += "error" in document
                progress.set_postfix(errors=errors, refresh=False)
                progress.update()
        finally:
            store.flush()
    seconds = time.perf_counter() - begun
    rate = f" ({_steady_rate(moments):.2f} photos/s once running)" if len(moments) >= 20 else ""
    print(f"{len(waiting)} photos in {seconds:.1f} s{rate}; errors: {errors}", file=sys.stderr)


def _steady_rate(moments: list[float]) -> float:
    """Photos per second, without the first and the last tenth, while predictors load or run out of work."""
    moments = sorted(moments)
    skipped = len(moments) // 10
    first, last = moments[skipped], moments[-1 - skipped]
    return (len(moments) - 1 - 2 * skipped) / max(last - first, 1e-9)
