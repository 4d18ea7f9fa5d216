"""How workers share a machine's cores: beside a busy program, two versions at once, one thread each.

A worker here is what TorchServe starts: a process with a predictor of its own and ``OMP_WAIT_POLICY=passive``. Each is
asked again and again by a client of its own.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from handler.model.cores import usable_cores
from serve_config.server.processes import environment

ROOT = Path(__file__).parents[2]
WORKER = """
import json, sys, time
from pathlib import Path
from handler.model.predictor import Predictor
from tests.toy_models import photo
archive, threads = sys.argv[1:]
predictor, image = Predictor.load(Path(archive), device="cpu", threads=int(threads)), photo(768, 1024, seed=1)
predictor.predict([image])
print("[]", flush=True)
for seconds in sys.stdin:
    times, end = [], time.perf_counter() + float(seconds)
    while time.perf_counter() < end or not times:
        start = time.perf_counter()
        predictor.predict([image])
        times.append(time.perf_counter() - start)
    print(json.dumps(times), flush=True)
"""
ALONE, BUSY = "one worker, all cores", "the same beside a busy core"
TOGETHER, SINGLE = "two workers, all cores each", "a worker a core, one thread each"


def rows_of(archive: Path, seconds: float, rounds: int = 3) -> list[dict[str, Any]]:
    """A row per way to share the cores, from about ``seconds`` of requests in all; ``archive`` is an unpacked one.

    The ways take turns, ``rounds`` times.
    """
    cores = usable_cores()
    with contextlib.ExitStack() as stack:
        threads = [cores, cores, *[1] * cores]
        workers = [stack.enter_context(running(WORKER, archive, count)) for count in threads]
        assert [answer(worker) for worker in workers] == [[]] * len(workers)
        ways = {ALONE: workers[:1], BUSY: workers[:1], TOGETHER: workers[:2], SINGLE: workers[2:]}
        times: dict[str, list[list[float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, asked in ways.items():
                with running("while True: pass") if name == BUSY else contextlib.nullcontext():
                    times[name] += ask(asked, seconds / rounds / len(ways))
    p50 = {name: 1e3 * statistics.median(chain.from_iterable(lists)) for name, lists in times.items()}
    rate = {name: sum(len(each) / sum(each) for each in lists) / rounds for name, lists in times.items()}
    return [
        {
            "workers": name,
            "p50 ms": p50[name],
            "p50, ×": p50[name] / p50[ALONE],
            "photos a second": rate[name],
            "photos a second, ×": rate[name] / rate[ALONE],
        }
        for name in ways
    ]


def ask(workers: Sequence[subprocess.Popen[str]], seconds: float) -> list[list[float]]:
    """The seconds of each request, a list per worker, all asked at once."""
    for worker in workers:
        print(seconds, file=worker.stdin, flush=True)
    return [answer(worker) for worker in workers]


def answer(worker: subprocess.Popen[str]) -> list[float]:
    assert worker.stdout
    line = worker.stdout.readline()
    assert line, "a worker ended"
    return list(json.loads(line))


@contextlib.contextmanager
def running(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python program with a worker's environment, killed when the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=environment(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()
