"""Predict photos on Ray: a predictor per core or GPU, as actors.

Answers are small (some kB per photo), so they come back to this process, which alone writes. An actor that dies, by
itself or with its node, is replaced where there is room; its photos are tried again one by one.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray

from handler.errors import PredictError
from handler.model.cores import usable_cores
from handler.predict import worker
from handler.predict.job import Answers, Job

PHOTOS_PER_TASK = 16  # what a lost actor loses at most
TRIES = 3  # of a photo whose actor dies
GPU_BATCH = 8
LONGEST_TEMPORARY = 25  # characters: Ray's sockets are deep below it, and a socket's path has at most 107


def answers(archive: Path, job: Job, options: Mapping[str, str], photos: Sequence[str]) -> Answers:
    """Each photo with its answer, once, in the order in which they arrive.

    Raises:
        PredictError: the predictor cannot be loaded, or nothing answers any more.
    """
    with _connected(job.ray or "local", archive.stat().st_size) as folder:
        ray.cloudpickle.register_pickle_by_value(worker)
        resources, threads = ray.cluster_resources(), job.threads or 1
        gpus = int(resources.get("GPU", 0))
        actors = gpus or max(1, int(resources.get("CPU", 1)) // threads)
        batch_size = job.batch_size or (GPU_BATCH if gpus else 1)
        needs = {"num_cpus": threads, "num_gpus": 1 if gpus else None}
        start = partial(
            ray.remote(worker.PredictorProcess).options(**needs).remote,
            ray.put(archive.read_bytes()),
            Path(worker.__file__).read_text(encoding="utf-8"),
            dict(options),
            threads=threads,
            batch_size=batch_size,
            # a photo that hangs is tried twice before its actor counts as stuck
            patience=job.stall_timeout / 4,
            device="cuda" if gpus else "cpu",
            folder=folder,
        )
        size = max(1, min(PHOTOS_PER_TASK, len(photos) // (2 * actors)))
        if gpus:
            size = max(size, worker.AHEAD * batch_size)
        tasks = [photos[i : i + size] for i in range(0, len(photos), size)]
        yield from _spread(tasks, start, actors, job.stall_timeout)


def _spread(
    tasks: Sequence[Sequence[str]], start: Callable[[], Any], actors: int, patience: float
) -> Answers:
    """Give each free actor the next task until all photos are answered."""
    waiting, lost, idle = deque(tasks), Counter[str](), []
    running: dict[Any, tuple[Any, Sequence[str]]] = {}

    def give(actor: Any, task: Sequence[str]) -> None:
        running[actor.answer.remote(list(task))] = actor, task

    for _ in range(min(actors, len(tasks))):
        give(start(), [])  # it is free once it has answered nothing
    while waiting or any(task for _, task in running.values()):
        done, _ = ray.wait(list(running), timeout=patience)
        if not done:
            raise PredictError(
                f"no photo was answered for {patience} s: check that the nodes are alive and have memory; what was "
                "answered is written, and the same command continues from there"
            )
        actor, task = running.pop(done[0])
        try:
            yield from ray.get(done[0])
            idle.append(actor)
        except ray.exceptions.RayTaskError as error:
            raise PredictError(str(error.cause)) from error
        except ray.exceptions.RayError:  # the actor is gone, or its answer with its node
            give(start(), [])
            lost.update(task)
            for photo in task:
                if lost[photo] < TRIES:
                    waiting.append([photo])
                else:
                    yield photo, worker.died()
        while waiting and idle:
            give(idle.pop(), waiting.popleft())
    ray.wait([actor.close.remote() for actor in idle], num_returns=len(idle), timeout=10)


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
