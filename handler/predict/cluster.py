"""Predict photos on Ray.

- Ray Data runs one predictor per actor and restarts a killed one. Answers are small (some kB per photo), so they
  come back to this process, which alone writes.
- A photo that kills its actor twice, or that was lost with a node, is missing at the end of a pass and gets another
  pass, the last one by itself. If it kills again, that is its error. An actor that hangs kills itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow
import ray
import ray.data

from handler.errors import PredictError
from handler.model.cores import usable_cores
from handler.predict import worker
from handler.predict.job import DIED, Answers, Job, Model

PHOTOS_PER_TASK = 16  # what a killed worker loses at most
TRIES = 2  # of a task, before its photos wait for the next pass
GPU_BATCH = 8
LONGEST_TEMPORARY = 25  # characters: Ray's sockets are deep below it, and a socket's path has at most 107


def answers(
    job: Job, model: Model, options: Mapping[str, str], photos: Sequence[str], *, fresh: bool
) -> Answers:
    """Each photo with its answer and the time of the answer, once, in the order in which they arrive.

    Args:
        fresh: this job has no answers yet: if there are none now either, the photos are not at fault. What an earlier
            run left may be just those photos that kill their predictor.

    Raises:
        PredictError: the predictor cannot be loaded, or nothing answers any more.
    """
    missing = dict.fromkeys(photos)
    with _connected(job.ray or "local", len(model.data)) as cache:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it reports each lost task; we count them
        ray.cloudpickle.register_pickle_by_value(worker)
        setup = {
            "archive": [ray.put(model.data)],
            "sha256": model.sha256,
            "options": dict(options),
            "cache": cache,
        }
        for photos_per_task in (PHOTOS_PER_TASK, PHOTOS_PER_TASK, 1):
            before, stalled = len(missing), False
            try:
                yield from _one_pass(job, setup, missing, photos_per_task)
            except ray.data.exceptions.ExecutionTimeoutError:
                stalled = True  # a node is gone for good, or all are busy: the next pass uses what is left
            if not missing:
                return
        if len(missing) == before and (stalled or (fresh and before == len(photos) > 1)):
            raise PredictError(
                f"{before} photos got no answer (the first is {next(iter(missing))}): check that the nodes are "
                "alive and have memory; what was answered is written, and the same command continues from there"
            )
        for photo in missing:
            yield photo, DIED, time.time()


@contextlib.contextmanager
def _connected(address: str, archive_bytes: int) -> Iterator[str | None]:
    """Connect to a cluster, or start a Ray for this job alone, which ends with it; yields that one's folder."""
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= LONGEST_TEMPORARY else "/tmp"  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True) as folder:
        own = {
            "num_cpus": usable_cores(),
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",  # only this machine needs to reach it
            "object_store_memory": archive_bytes + 256 * 2**20,
            "_temp_dir": folder,
        }
        alone = address == "local"
        try:
            ray.init(address=address, **(own if alone else {}), **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise PredictError(f"Ray at {address} cannot be reached: {reason}") from error
        try:
            yield folder if alone else None
        finally:
            ray.shutdown()


def _one_pass(job: Job, setup: dict[str, Any], missing: dict[str, None], photos_per_task: int) -> Answers:
    """The answers to the photos whose tasks survive; takes them out of ``missing``."""
    photos = list(missing)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = job.stall_timeout
    resources, threads = ray.cluster_resources(), job.threads or 1
    gpus = int(resources.get("GPU", 0))
    actors = gpus or max(1, int(resources.get("CPU", 1)) // threads)
    size = max(1, min(photos_per_task, len(photos) // (2 * actors)))
    batch_size = job.batch_size or (GPU_BATCH if gpus else 1)
    if gpus and photos_per_task > 1:
        size = max(size, batch_size)
    tables = [pyarrow.table({"photo": photos[i : i + size]}) for i in range(0, len(photos), size)]
    answered = ray.data.from_arrow(tables).map_batches(
        worker.PhotoWorker,
        fn_constructor_kwargs={
            **setup,
            "threads": threads,
            "batch_size": batch_size,
            "device": "cuda" if gpus else "cpu",
            # two tries, each with a new actor, must fit before Ray itself takes it for a standstill
            "patience": job.stall_timeout / 4,
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(tables))),
        num_gpus=1 if gpus else None,
        num_cpus=threads,
        ray_remote_args_fn=lambda: {"max_task_retries": TRIES - 1},
    )
    try:
        for table in answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            # a task that was run twice answers twice
            for row in (row for row in table.to_pylist() if row["photo"] in missing):
                del missing[row["photo"]]
                yield row["photo"], json.loads(row["body"]), row["answered"]
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise PredictError(f"the predictor could not be started: {lines[-1].strip()[:300]}") from error
