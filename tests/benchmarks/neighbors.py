"""How workers share a machine's cores: beside a busy program, two versions at once, one thread each.

A worker here is what TorchServe starts: a process with a predictor of its own and ``OMP_WAIT_POLICY=passive``. Each is
asked again and again by a client of its own.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from handler.model.cores import usable_cores
from serve_config.server.processes import environment

ROOT = Path(__file__).parents[2]
WORKER = """
import sys, time
from itertools import chain
from pathlib import Path
from handler.model.predictor import Predictor
from tests.toy_models import photo
archive, threads, seconds = sys.argv[1:]
predictor, image = Predictor.load(Path(archive), device="cpu", threads=int(threads)), photo(768, 1024, seed=1)
for _ in range(3):
    predictor.predict([image])
print("ready", flush=True)
sys.stdin.readline()
start = end = time.perf_counter()
while end < start + float(seconds):
    predictor.predict([image])
    print(time.perf_counter() - end, flush=True)
    end = time.perf_counter()
"""


def rows_of(archive: Path, seconds: float) -> list[dict[str, Any]]:
    """A row per way to share the cores; ``archive`` is an unpacked one. Twice in turn, about ``seconds`` together."""
    cores = usable_cores()
    ways: dict[str, dict[str, Any]] = {
        "one worker, all cores": {"workers": 1, "threads": cores},
        "the same beside a busy core": {"workers": 1, "threads": cores, "busy": True},
        "two workers, all cores each": {"workers": 2, "threads": cores},
        "a worker a core, one thread each": {"workers": cores, "threads": 1},
    }
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(2):
        for name, way in ways.items():
            times[name] += ask(archive, seconds=seconds / 2 / len(ways), **way)
    p50 = {name: 1e3 * statistics.median(chain.from_iterable(lists)) for name, lists in times.items()}
    rate = {name: sum(len(each) / sum(each) for each in lists) / 2 for name, lists in times.items()}
    first = next(iter(ways))
    return [
        {
            "workers": name,
            "p50 ms": p50[name],
            "p50, ×": p50[name] / p50[first],
            "photos a second": rate[name],
            "photos a second, ×": rate[name] / rate[first],
        }
        for name in ways
    ]


def ask(
    archive: Path, *, workers: int, threads: int, seconds: float, busy: bool = False
) -> list[list[float]]:
    """The seconds of each request, a list per worker, all asked at once; ``busy`` keeps a core at work beside them."""
    command = [sys.executable, "-c", WORKER, str(archive), str(threads), str(seconds)]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(running(command)) for _ in range(workers)]
        ready = [each.stdout.readline() for each in started if each.stdout]
        assert ready == ["ready\n"] * workers, "a worker did not load"
        if busy:
            stack.enter_context(running([sys.executable, "-c", "while True: pass"]))
        for each in started:
            print(file=each.stdin, flush=True)
        answers = [each.stdout.read().split() for each in started if each.stdout]
    return [[float(word) for word in words] for words in answers]


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process with a worker's environment, killed when the block ends."""
    with subprocess.Popen(
        command,
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
