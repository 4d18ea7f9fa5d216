"""Speed over HTTP: ours on TorchServe against ``DefaultPredictor`` behind Flask and behind LitServe.

    python -m tests.benchmarks.bench_http                   # random weights that find about ten objects
    python -m tests.benchmarks.bench_http --run RUN         # a trained one

Same weights, same JPEG of 2048 × 1536 pixels resized to 800, JSON with RLE masks, all servers up at once and
asked in turn: one client, then eight at once. Then what the service costs beyond the network: HTTP, encoding, memory.
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
from handler.api import responses
from handler.api.options import Options as Asked
from serve_config.server.state import ENGINES
from tests.benchmarks.bench_predictor import HEIGHT, WIDTH, describe
from tests.benchmarks.measuring import (
    alternate,
    argument_parser,
    bar_chart,
    end_on_sigterm,
    machine,
    save,
    summary,
    table,
    write_run_at_800,
)
from tests.handler.model.test_memory import MEASURE
from tests.handler.toys import blob_detections
from tests.torchserve_fixture import running_torchserve
from tests.toy_models import photo

OURS, OURS_ON_LITSERVE = "ours on TorchServe", "ours on LitServe"
FLASK, LITSERVE = "DefaultPredictor, Flask", "DefaultPredictor, LitServe"
CLIENTS = 8


def main() -> int:
    parser = argument_parser(__doc__, "reports/bench_http")
    parser.add_argument("--backbone", default="resnet50_fpn", help="for random weights")
    parser.add_argument("--run", type=Path, help="a run folder or checkpoint instead of random weights")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=CLIENTS if torch.cuda.is_available() else 1,
        help="requests that our worker predicts together (default: 8 on a GPU, 1 on a CPU)",
    )
    parser.add_argument("--repeats", type=int, default=20, help="timed requests of one client (default: 20)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of eight clients with two requests each"
    )
    args = parser.parse_args()
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        run = write_run_at_800(Path(folder) / "run", args.backbone, args.run)
        ask = servers(run, Path(folder), stack, args.batch_size)
        where = machine()
        rows = one_client(ask, args.repeats)
        eight_clients(ask, args.rounds, rows)
        overhead = http_overhead(ask[OURS], args.repeats)
    encoded, peak = list(encoding()), memory()
    title = f"{args.run or args.backbone}, {describe(where)}"
    text = "\n\n".join([title, table(rows), table([overhead]), table(encoded), table([peak])])
    print(text)
    report = {
        "machine": where,
        "rows": rows,
        "overhead": overhead,
        "encoding": encoded,
        "memory": peak,
    }
    save(args.output, "bench_http", report, text)
    rate = "requests a second"
    groups = [{**row, "group": f"{rate}, eight clients"} for row in rows]
    picture = args.output / "bench_http.png"
    bar_chart(picture, groups, group="group", label="server", value=rate, title=title)
    print(f"\n{args.output}")
    return 0


def servers(
    run: Path, folder: Path, stack: contextlib.ExitStack, batch_size: int
) -> dict[str, Callable[[], requests.Response]]:
    """Start all of them; return how each is asked for the same picture."""
    buffer = io.BytesIO()
    Image.fromarray(photo(HEIGHT, WIDTH, seed=1)).save(buffer, "JPEG", quality=90)
    jpeg = buffer.getvalue()
    text = base64.b64encode(jpeg).decode()  # how LitServe takes bytes
    archive = export(run, Options(output=folder / "exported", batch_size=batch_size))
    running, second = (
        stack.enter_context(running_torchserve(folder / engine, [archive], engine=engine))
        for engine in ENGINES
    )
    path = "/predictions/maskrcnn"
    flask = stack.enter_context(baseline("flask", run))
    litserve = stack.enter_context(baseline("litserve", run))
    return {
        OURS: lambda: running.client.request("inference", "POST", path, timeout=300, data=jpeg),
        OURS_ON_LITSERVE: lambda: second.client.request("inference", "POST", path, timeout=300, data=jpeg),
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


def one_client(ask: dict[str, Callable[[], requests.Response]], repeats: int) -> list[dict[str, Any]]:
    """Latency of a single client, a row per server."""
    replies = {name: call() for name, call in ask.items()}
    for name, reply in replies.items():
        assert reply.ok, (name, reply.text[:500])
    seconds = alternate(ask, repeats=repeats)
    reference = summary(seconds[FLASK])["median_ms"]
    return [
        {
            "server": name,
            "latency_ms": summary(times)["median_ms"],
            "× Flask": reference / summary(times)["median_ms"],
            "JSON kB": len(replies[name].content) / 1000,
        }
        for name, times in seconds.items()
    ]


def eight_clients(
    ask: dict[str, Callable[[], requests.Response]], rounds: int, rows: list[dict[str, Any]]
) -> None:
    """Throughput with eight requests in flight, the servers in turn; added to the rows."""
    rates: dict[str, list[float]] = {name: [] for name in ask}
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in range(rounds):
            for name, call in ask.items():
                start = time.perf_counter()
                replies = list(pool.map(lambda _, call=call: call(), range(2 * CLIENTS)))
                rates[name].append(len(replies) / (time.perf_counter() - start))
                assert all(reply.ok for reply in replies), name
    reference = statistics.median(rates[FLASK])
    for row in rows:
        rate = statistics.median(rates[row["server"]])
        row |= {"requests a second": rate, "× Flask, eight clients": rate / reference}


def http_overhead(call: Callable[[], requests.Response], repeats: int) -> dict[str, Any]:
    """What a request takes beyond the decoding, inference and postprocessing that its answer reports."""
    seconds, inside = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        reply = call()
        seconds.append(time.perf_counter() - start)
        inside.append(sum(reply.json()["timings_ms"].values()) / 1000)
    beyond = [whole - part for whole, part in zip(seconds, inside, strict=True)]
    return {
        "ours": "milliseconds, one client",
        "whole": summary(seconds)["median_ms"],
        "in the worker": summary(inside)["median_ms"],
        "HTTP and TorchServe": summary(beyond)["median_ms"],
    }


def encoding() -> Iterator[dict[str, Any]]:
    """Size and time of the JSON, for 8 and 50 objects on 2048 × 1536 pixels."""
    image = photo(HEIGHT, WIDTH)
    for count in (8, 50):
        found = blob_detections(count, HEIGHT, WIDTH)

        def encode(found: Any = found) -> bytes:
            return responses.encode(
                image, image.shape[:2], found, Asked(score_threshold=0.0), {"classes": ["balloon"]}, {}
            ).body

        median = summary(alternate({"": encode}, repeats=20)[""])["median_ms"]
        yield {"JSON of": f"{count} objects", "ms an object": median / count, "kB": len(encode()) / 1000}


def memory() -> dict[str, Any]:
    """Peak memory of a request with 300 detections on 12 megapixels, on top of the model."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", MEASURE, "usual", "mask_format=rle"]
    peak = float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout)
    return {"one request with": "300 detections on 12 megapixels", "peak MiB beside the model": peak}


if __name__ == "__main__":
    sys.exit(main())
