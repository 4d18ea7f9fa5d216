"""The last step of :mod:`tests.benchmarks.gpu_check`: TorchServe on the GPU, under load, and what goes wrong there."""

from __future__ import annotations

import itertools
import os
import signal
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import requests
import yaml

from finetune.export.archive import Options, export
from serve_config.errors import ServeError
from serve_config.models.management import versions
from serve_config.models.swap import swap
from tests.benchmarks.bench_http import baseline
from tests.benchmarks.gpu_steps import Setting
from tests.benchmarks.measuring import AT_800
from tests.torchserve_fixture import RunningTorchServe, running_torchserve
from tests.toy_models import TINY, write_run

BATCH = 8
FIRST, SECOND = "first", "second"
SECONDS_TO_RETURN = 120  # for a worker that was killed
Ask = Callable[[], requests.Response]


def serving(setting: Setting) -> dict[str, Any]:
    """Photos a second by clients, workers and delay, beside Flask; a killed worker and a swap, both under load."""
    run = setting.folder / "run"
    at_800 = [str(word) for key, pixels in AT_800.items() for word in (f"INPUT.{key}", pixels)]
    write_run(run, *(("mobilenetv2_fpn", TINY) if setting.dry_run else ("resnet50_fpn", at_800)))
    first, second = (
        export(run, Options(version=name, output=setting.folder / name, engine="torch", batch_size=BATCH))
        for name in (FIRST, SECOND)
    )
    figures: dict[str, Any] = {}
    clients = (1, 2) if setting.dry_run else (1, 8, 32)
    combinations = [(1, 2)] if setting.dry_run else [*itertools.product((1, 2, 4), (2,)), (1, 10)]
    try:
        for workers, delay in combinations:
            name = f"{workers} workers, delay {delay} ms"
            archive = with_delay(first, setting.folder / name, delay)
            with running_torchserve(setting.folder / f"serve {name}", [archive], workers=workers) as running:
                figures[name] = rates(asking(running, setting), clients, setting)
        with running_torchserve(setting.folder / "serve", [first, second], workers=2) as running:
            figures |= trouble(running, asking(running, setting))
    except ServeError as error:
        if "Java" not in str(error):
            raise
        return {"skipped": str(error)}
    jpeg = setting.jpeg()
    with baseline("flask", run) as url:
        ask = lambda: requests.post(f"{url}/predict", data=jpeg, timeout=120)  # noqa: E731
        figures["Flask"] = rates(ask, clients[:2], setting)
    return figures


def asking(running: RunningTorchServe, setting: Setting) -> Ask:
    """A function that asks the default version about the same photo."""
    jpeg, path = setting.jpeg(), "/predictions/maskrcnn"
    return lambda: running.client.request("inference", "POST", path, timeout=120, data=jpeg)


def with_delay(archive: Path, folder: Path, delay: int) -> Path:
    """A copy of the archive whose worker waits ``delay`` milliseconds for a batch to fill."""
    folder.mkdir()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(folder / archive.name, "w") as copy:
        for part in source.infolist():
            data = source.read(part)
            if part.filename == "model-config.yaml":
                data = yaml.safe_dump(yaml.safe_load(data) | {"maxBatchDelay": delay}).encode()
            copy.writestr(part, data)
    return folder / archive.name


def rates(ask: Ask, numbers: tuple[int, ...], setting: Setting) -> dict[str, float]:
    """Photos a second, by the number of clients that ask at once."""
    found = {}
    for clients in numbers:
        count = clients * (2 if setting.dry_run else 10)
        with ThreadPoolExecutor(clients) as pool:
            begun = time.perf_counter()
            replies = list(pool.map(lambda _: ask(), range(count)))
            seconds = time.perf_counter() - begun
        assert all(reply.ok for reply in replies), [reply.text[:200] for reply in replies if not reply.ok][:1]
        found[f"{clients} clients"] = count / seconds
    return found


def trouble(running: RunningTorchServe, ask: Ask) -> dict[str, Any]:
    """A killed worker costs its own batch at most, a swap nothing, and the metrics say what happened."""

    def kill_a_worker() -> None:
        victim = int(next(each for each in versions(running.client) if each.name == FIRST).workers[0]["pid"])
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: all(v.ready and victim not in pids(v.workers) for v in versions(running.client)))

    killed = under_load(ask, kill_a_worker)
    assert killed[200], killed
    assert killed.total() - killed[200] <= BATCH, f"more than the worker's own batch was lost: {killed}"
    swapped = under_load(ask, lambda: swap(running.client, SECOND, lambda _: None))
    assert set(swapped) == {200}, f"a swap loses nothing: {swapped}"
    assert ask().json()["model"]["version"] == SECOND
    answered = [line for line in running.client.metrics().splitlines() if "maskrcnn_requests_total{" in line]
    assert answered, "the metrics do not tell of the requests"
    return {"statuses beside a killed worker": dict(killed), "statuses beside a swap": dict(swapped)}


def pids(workers: list[dict[str, Any]]) -> set[int]:
    return {int(worker["pid"]) for worker in workers}


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS_TO_RETURN
    while not done():
        assert time.monotonic() < end, f"the worker did not return within {SECONDS_TO_RETURN} s"
        time.sleep(0.5)


def under_load(ask: Ask, action: Callable[[], object], clients: int = BATCH) -> Counter[int]:
    """How the requests of busy clients ended, by status, while ``action`` ran."""
    over, statuses = Event(), Counter[int]()

    def client() -> None:
        while not over.is_set():
            statuses[ask().status_code] += 1

    with ThreadPoolExecutor(clients) as pool:
        busy = [pool.submit(client) for _ in range(clients)]
        try:
            action()
        finally:
            over.set()
        for each in busy:
            each.result()
    return statuses
