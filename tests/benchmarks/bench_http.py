"""Speed over HTTP: ours on TorchServe against ``DefaultPredictor`` behind Flask and behind LitServe.

Same weights, same JPEG of 2048 × 1536 pixels resized to 800, JSON with RLE masks, all servers up at once and
asked in turn: one client, then eight at once. Then what HTTP costs beyond the network.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
import torch
from PIL import Image

from finetune.export.archive import Options, export
from serve_config.server.state import ENGINES
from tests.benchmarks.bench_predictor import HEIGHT, WIDTH, default_predictor
from tests.benchmarks.floor import floors, multiply_adds, native_types, products, share
from tests.benchmarks.measuring import alternate, summary, write_run_at_800
from tests.torchserve_fixture import running_torchserve
from tests.toy_models import photo, quiet_detectron2

OURS = {engine: f"ours, {native_types()[-1]}, on {name}" for engine, name in ENGINES.items()}
FLASK, LITSERVE = "DefaultPredictor, Flask", "DefaultPredictor, LitServe"
CLIENTS = 8


def rows_of(backbone: str, batch_size: int, seconds: float) -> list[dict[str, Any]]:
    """A row per server, and one for the floor of each precision, from about ``seconds`` of timed requests."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        run = write_run_at_800(Path(folder) / "run", backbone)
        ask = servers(run, Path(folder), stack, batch_size)
        for name, call in ask.items():
            reply = call()
            assert reply.ok, (name, reply.text[:500])
        times: dict[str, Any] = alternate({**ask, **products()}, repeats=20, warm_up=1, limit=0.4 * seconds)
        default, pixels = default_predictor(run, "cpu"), photo(HEIGHT, WIDTH, seed=1)[:, :, ::-1]
        with torch.no_grad(), quiet_detectron2():
            adds = multiply_adds(lambda: default(pixels))
        floor = floors(adds, times)
        rates = eight_clients(ask, 0.6 * seconds)
        beyond = {name: http_overhead(ask[name]) for name in ask if name.startswith("ours")}
    medians = {name: summary(each)["median_ms"] for name, each in times.items()}
    return [
        {
            "server": name,
            "median_ms": medians[name],
            "× Flask": medians[FLASK] / medians[name],
            "share of floor": share(name, medians[name], floor),
            "beyond the worker, ms": beyond.get(name),
            "requests a second, eight clients": rates[name],
            "× Flask, eight clients": rates[name] / rates[FLASK],
        }
        for name in ask
    ]


def servers(
    run: Path, folder: Path, stack: contextlib.ExitStack, batch_size: int
) -> dict[str, Callable[[], requests.Response]]:
    """Start all of them; return how each is asked for the same picture."""
    buffer = io.BytesIO()
    Image.fromarray(photo(HEIGHT, WIDTH, seed=1)).save(buffer, "JPEG", quality=90)
    jpeg = buffer.getvalue()
    text = base64.b64encode(jpeg).decode()  # how LitServe takes bytes
    archive = export(run, Options(output=folder / "exported", batch_size=batch_size))
    ask: dict[str, Callable[[], requests.Response]] = {}
    for engine, name in OURS.items():
        client = stack.enter_context(running_torchserve(folder / engine, [archive], engine=engine)).client
        ask[name] = lambda client=client: client.request(
            "inference", "POST", "/predictions/maskrcnn", timeout=300, data=jpeg
        )
    flask = stack.enter_context(baseline("flask", run))
    litserve = stack.enter_context(baseline("litserve", run))
    return ask | {
        FLASK: lambda: requests.post(f"{flask}/predict", data=jpeg, timeout=300),
        LITSERVE: lambda: requests.post(f"{litserve}/predict", json={"image": text}, timeout=300),
    }


@contextlib.contextmanager
def baseline(kind: str, run: Path) -> Iterator[str]:
    """One of the servers of :mod:`tests.benchmarks.baselines`; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.benchmarks.baselines", kind, str(run), str(port)]
    url = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            for _ in range(240):
                with contextlib.suppress(requests.ConnectionError):
                    if requests.get(f"{url}/health", timeout=5).ok:
                        break
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"{kind} did not start: {log.read().decode()[-2000:]}")
                time.sleep(0.5)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # LitServe's workers outlive it otherwise


def eight_clients(ask: dict[str, Callable[[], requests.Response]], seconds: float) -> dict[str, float]:
    """Server → requests a second with eight in flight, the servers in turn, for ``seconds`` and twice at least."""
    rates: dict[str, list[float]] = {name: [] for name in ask}
    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        while len(rates[FLASK]) < 2 or time.perf_counter() - begun < seconds:
            for name, call in ask.items():
                start = time.perf_counter()
                replies = list(pool.map(lambda _, call=call: call(), range(CLIENTS)))
                rates[name].append(len(replies) / (time.perf_counter() - start))
                assert all(reply.ok for reply in replies), name
    return {name: statistics.median(each) for name, each in rates.items()}


def http_overhead(call: Callable[[], requests.Response]) -> float:
    """Milliseconds that a request takes beyond the decoding, inference and postprocessing that its answer reports."""
    beyond = []
    for _ in range(10):
        start = time.perf_counter()
        reply = call()
        beyond.append(1e3 * (time.perf_counter() - start) - sum(reply.json()["timings_ms"].values()))
    return statistics.median(beyond)
