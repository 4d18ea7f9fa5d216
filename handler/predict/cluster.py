"""One batch job: list, skip what is done, predict, write.

What it promises: every photo of INPUT is in OUTPUT exactly once, with its instances or with its error.

- Ray Data runs one predictor an actor and starts a killed one again. Answers are small (some kB a photo), so they
  come back to this process, which alone writes; see :mod:`handler.predict.writers`.
- A photo that kills its actor twice, or that was lost with a node, is missing at the end of a pass, and gets
  another pass, the last one by itself. If it kills again, that is its error. An actor that hangs kills itself.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import ray
import ray.data
from tqdm import tqdm

from handler.api.errors import RequestError, error_body
from handler.api.options import FormText, Options, parse_options
from handler.model.cores import usable_cores
from handler.predict import BatchError, worker
from handler.predict.sources import list_photos
from handler.predict.writers import Shards, write_coco

PHOTOS_A_TASK = 16  # what a killed worker loses at most, and the step of the progress bar
TRIES = 2  # of a task, before its photos wait for the next pass
GPU_BATCH = 8
LONGEST_TEMPORARY = 25  # characters: Ray's sockets lie deep below it, and a socket's path has 107 at most
DIED = error_body(
    "worker_died", "The predictor died of this picture, or never came to an end, each time it was tried."
)


@dataclass(frozen=True)
class Model:
    """An archive as the job needs it."""

    data: bytes
    sha256: str
    version: str
    classes: list[str]


def run(args: argparse.Namespace) -> None:
    """Run the job of the command line.

    Raises:
        BatchError: for everything that the user can mend.
        KeyboardInterrupt: what was answered is written.
    """
    model = read_model(args.archive)
    names = ("score_threshold", "max_detections", "classes", "mask_format")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    options.setdefault("mask_format", "rle")  # whatever the archive's own default is
    chosen = _checked(options, model.classes)
    coco = args.output_format == "coco"
    if coco and chosen.mask_format == "png":
        raise BatchError("--mask-format png is not part of COCO: choose rle, polygon or none")
    if coco and _exists(args.output):
        raise BatchError(f"OUTPUT {args.output} is there already: remove it, or choose another name")
    photos = list_photos(args.input)
    about = {"archive_sha256": model.sha256, "version": model.version, "options": options}
    shards = Shards(args.output + ".parts" if coco else args.output, about, args.shard_size)
    with _alone(shards):
        done = shards.done()
        waiting = [photo for photo in photos if photo not in done]
        if done:
            print(f"{len(photos) - len(waiting)} of {len(photos)} photos are done already", file=sys.stderr)
        if waiting:
            _predict_all(args, model, options, waiting, len(photos), shards)
        if coco:
            write_coco(shards, args.output, model.classes, chosen.mask_format)
            shards.remove()


def read_model(path: Path) -> Model:
    """Read an archive and look whether it is one.

    Raises:
        BatchError: it is not.
    """
    try:
        data = path.read_bytes()
        with zipfile.ZipFile(path) as file:
            card = json.loads(file.read("archive.json"))
            file.getinfo("model-config.yaml")
        return Model(data, hashlib.sha256(data).hexdigest(), str(card["version"]), list(card["classes"]))
    except OSError as error:
        raise BatchError(f"the archive {path} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise BatchError(
            f"{path} is no archive of `python -m finetune export` ({error}): export it again"
        ) from error


def _checked(options: dict[str, str], classes: Sequence[str]) -> Options:
    try:
        return parse_options({name: FormText(value) for name, value in options.items()}, classes)
    except RequestError as error:
        raise BatchError(error.message.rstrip(".")) from error


def _exists(target: str) -> bool:
    try:
        fs, path = fsspec.core.url_to_fs(target)
        return bool(fs.exists(path))
    except (OSError, ValueError, ImportError) as error:
        raise BatchError(f"OUTPUT {target} cannot be used: {error}") from error


@contextlib.contextmanager
def _alone(shards: Shards) -> Iterator[None]:
    """Two jobs in one folder would do every photo twice. (Stores without locks are trusted.)"""
    if "file" not in shards.fs.protocol:
        yield
        return
    import fcntl

    folder = os.open(shards.root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BatchError(
            f"another job is writing to {shards.root}: wait for it, or choose another OUTPUT"
        ) from None
    finally:
        os.close(folder)


def _predict_all(
    args: argparse.Namespace,
    model: Model,
    options: dict[str, str],
    photos: list[str],
    total: int,
    shards: Shards,
) -> None:
    progress = tqdm(
        total=total, initial=total - len(photos), unit="photo", smoothing=0.05, desc=model.version
    )
    errors, moments, begun = 0, [], time.perf_counter()
    with _connected(args.address, len(model.data)) as cache, progress:
        try:
            fresh = total == len(photos)
            for photo, document, moment in predict(args, model, options, photos, cache, fresh=fresh):
                shards.add(photo, document)
                moments.append(moment)
                if "error" in document:
                    errors += 1
                    progress.set_postfix(errors=errors)
                progress.update()
        finally:
            shards.flush()
    seconds = time.perf_counter() - begun
    rate = f", {_steady_rate(moments):.2f} photos a second when running" if len(moments) >= 20 else ""
    print(f"{len(photos)} photos in {seconds:.1f} s{rate}; {errors} with an error", file=sys.stderr)


def _steady_rate(moments: list[float]) -> float:
    """Photos a second between the first and the last tenth, while predictors load and run out of work."""
    moments = sorted(moments)
    skipped = len(moments) // 10
    first, last = moments[skipped], moments[-1 - skipped]
    return (len(moments) - 1 - 2 * skipped) / max(last - first, 1e-9)


@contextlib.contextmanager
def _connected(address: str | None, archive_bytes: int) -> Iterator[str | None]:
    """A Ray of this job's own, gone afterwards with the folder that it yields; or a cluster that runs already."""
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= LONGEST_TEMPORARY else "/tmp"  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True) as folder:
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(
                    address="local",
                    num_cpus=usable_cores(),
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",  # nobody else has business with it
                    object_store_memory=archive_bytes + 256 * 2**20,
                    _temp_dir=folder,
                    **quiet,
                )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BatchError(f"Ray at {address or 'this machine'} cannot be reached: {reason}") from error
        try:
            yield None if address else folder
        finally:
            ray.shutdown()


def predict(
    args: argparse.Namespace,
    model: Model,
    options: dict[str, str],
    photos: Sequence[str],
    cache: str | None,
    *,
    fresh: bool,
) -> Iterator[tuple[str, dict[str, Any], float]]:
    """Each photo with its answer and the moment of it, once, in the order in which they come.

    Args:
        fresh: nothing of this job was ever answered: if nothing is now, it is not the photos' fault. What an earlier
            start left may well be just those photos that kill their predictor.

    Raises:
        BatchError: the predictor cannot be loaded, or nothing answers any more.
    """
    missing = dict.fromkeys(photos)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it reports each lost task; we count them
    ray.cloudpickle.register_pickle_by_value(worker)
    whole = {"archive": [ray.put(model.data)], "sha256": model.sha256, "options": options, "cache": cache}
    for photos_a_task in (PHOTOS_A_TASK, PHOTOS_A_TASK, 1):
        before, stalled = len(missing), False
        try:
            for row in _one_pass(args, whole, list(missing), photos_a_task):
                if row["photo"] in missing:
                    del missing[row["photo"]]
                    yield row["photo"], json.loads(row["body"]), row["answered"]
        except ray.data.exceptions.ExecutionTimeoutError:
            stalled = True  # a node is gone for good, or all are busy: the next pass takes what there is
        if not missing:
            return
    if len(missing) == before and (stalled or (fresh and before == len(photos) > 1)):
        raise BatchError(
            f"{before} photos got no answer ({next(iter(missing))} the first): look whether the nodes are alive and "
            "have memory; what was answered is written, and the same command goes on from here"
        )
    for photo in missing:
        yield photo, DIED, time.time()


def _one_pass(
    args: argparse.Namespace, whole: dict[str, Any], photos: list[str], photos_a_task: int
) -> Iterator[dict[str, Any]]:
    """Rows of ``photo``, ``body``, ``answered`` for the photos whose tasks survive; each worker gets ``whole``."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = args.stall_timeout
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    actors = gpus or max(1, int(resources.get("CPU", 1)) // args.threads)
    size = max(1, min(photos_a_task, len(photos) // (2 * actors)))
    device = "cuda" if gpus else "cpu"
    batch_size = args.batch_size or (GPU_BATCH if gpus else 1)
    if gpus and photos_a_task > 1:
        size = max(size, batch_size)
    tables = [pyarrow.table({"photo": photos[i : i + size]}) for i in range(0, len(photos), size)]
    answers = ray.data.from_arrow(tables).map_batches(
        worker.PhotoWorker,
        fn_constructor_kwargs={
            **whole,
            "threads": args.threads,
            "batch_size": batch_size,
            "device": device,
            # two tries, and a new actor for each, before Ray itself takes it for a standstill
            "patience": args.stall_timeout / 4,
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(tables))),
        num_gpus=1 if gpus else None,
        num_cpus=None if gpus else args.threads,
        ray_remote_args_fn=lambda: {"max_task_retries": TRIES - 1},
    )
    try:
        for table in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from table.to_pylist()
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise BatchError(f"the predictor could not be started: {lines[-1].strip()[:300]}") from error
