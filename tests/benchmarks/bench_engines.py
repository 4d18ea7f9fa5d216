"""The same archive on TorchServe and on LitServe: time of an answer and throughput, with small and large photos.

    python -m tests.benchmarks.bench_engines ARCHIVE

Both servers are up at once and take turns, so that other work on the machine slows both alike: compare them within one
run. First one client, then eight at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from serve_config.server.state import ENGINES
from tests.benchmarks.measuring import end_on_sigterm, machine, table
from tests.torchserve_fixture import RunningTorchServe, running_torchserve
from tests.toy_models import photo

CLIENTS = 8
SIZES = {"photo of 0.8 megapixels": (768, 1024), "photo of 12 megapixels": (3000, 4000)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("--repeats", type=int, default=30, help="requests of one client (default: 30)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of 8 clients with 2 requests (default: 5)"
    )
    args = parser.parse_args()
    end_on_sigterm()
    where = machine()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = {
            ENGINES[engine]: stack.enter_context(
                running_torchserve(Path(folder) / engine, [args.archive], engine=engine)
            )
            for engine in ENGINES
        }
        rows = [row for body in bodies().items() for row in compare(servers, *body, args)]
    print(
        f"{args.archive.name}, {where['processor']}, {where['cores']} cores, {where['date']}\n\n{table(rows)}"
    )
    return 0


def bodies() -> dict[str, bytes]:
    """JPEGs by what the report calls them."""
    found = {}
    for name, (height, width) in SIZES.items():
        buffer = io.BytesIO()
        grain = np.random.default_rng(0).integers(
            0, 60, (height, width, 3), np.uint8
        )  # as of a phone at night
        Image.fromarray(photo(height, width, seed=1) // 2 + grain).save(buffer, "JPEG", quality=90)
        found[f"{name}, {len(buffer.getvalue()) / 1e6:.1f} MB"] = buffer.getvalue()
    return found


def compare(
    servers: dict[str, RunningTorchServe], body: str, jpeg: bytes, args: argparse.Namespace
) -> list[dict[str, object]]:
    """The rows of the report for one photo, sent as the page sends it."""
    for server in [*servers.values()] * 3:  # warm up
        post(server, jpeg)
    alone = {name: [] for name in servers}
    for _ in range(args.repeats):
        for name, server in servers.items():
            alone[name].append(post(server, jpeg))
    together, rates = {name: [] for name in servers}, {name: [] for name in servers}
    for _ in range(args.rounds):
        for name, server in servers.items():
            start = time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                together[name] += pool.map(post, [server] * 2 * CLIENTS, [jpeg] * 2 * CLIENTS)
            rates[name].append(2 * CLIENTS / (time.perf_counter() - start))
    rows = []
    for name in servers:
        p50, model = (statistics.median(each) * 1e3 for each in zip(*alone[name], strict=True))
        rows.append(
            {
                "body": body,
                "server": name,
                "1 client, p50 ms": p50,
                "of it the server's": p50 - model,
                "8 clients, p50 ms": statistics.median(seconds for seconds, _ in together[name]) * 1e3,
                "photos a second": statistics.median(rates[name]),
            }
        )
    return rows


def post(server: RunningTorchServe, jpeg: bytes) -> tuple[float, float]:
    """Send a photo; return the seconds until its answer, and those that the handler counts as its own."""
    headers = {"Authorization": f"Bearer {server.client.read_key('inference')[0]}"}
    url, files = server.client.url("inference", "/predictions/maskrcnn"), {"image": ("photo.jpg", jpeg)}
    start = time.perf_counter()
    answer = requests.post(url, files=files, headers=headers, timeout=300)
    seconds = time.perf_counter() - start
    assert answer.ok, answer.text
    return seconds, sum(answer.json()["timings_ms"].values()) / 1e3


if __name__ == "__main__":
    raise SystemExit(main())
