"""The page and TorchServe under load: steady, a burst of ten times as much, slow clients; and for a long time.

    python -m tests.benchmarks.load                        # make load: the three phases, 20 s each
    python -m tests.benchmarks.load --soak 30              # make soak: 30 minutes; memory and files must not grow

The model is tiny and random, everything else is real: this measures the service, not the network. Callers are an open
loop (each request starts on time, whether or not earlier ones were answered), so queueing shows as latency. Exit status
1 if an answer was lost or had an unexpected status, if a 503 lacked ``Retry-After``, or if something grew.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests

from serve_config.models.management import versions
from serve_config.server.state import State
from tests.benchmarks.measuring import argument_parser, machine, save, table
from tests.corpus import files
from tests.handler.served import handler_archive
from tests.torchserve_fixture import RunningTorchServe, running_torchserve

GROWTH_MB = 24  # megabytes that the slope of a process's memory may add up to over the soak
GROWTH_FILES = 3  # and its open files

MIX: tuple[dict[str, Any], ...] = (
    {"files": {"image": ("a.jpg", files()["JPEG"])}},
    {"files": {"image": ("a.png", files()["PNG"])}, "data": {"mask_format": "polygon"}},
    {"files": {"image": ("a.webp", files()["WEBP"])}, "data": {"output": "overlay"}},
    {"files": {"image": ("a.jpg", files()["JPEG"][:900])}},  # cut short: a refusal is an answer as well
)


@dataclass(frozen=True)
class Sample:
    """One request: seconds from its due time to its answer, the status (0: no answer), and Retry-After beside a 503."""

    phase: str
    at: float
    seconds: float
    status: int
    promised: bool = True


def ask(url: str, phase: str, due: float, form: dict[str, Any]) -> Sample:
    try:
        answer = requests.post(f"{url}api/predict", **form, timeout=60)
        status, promised = answer.status_code, answer.status_code != 503 or "Retry-After" in answer.headers
    except requests.RequestException:
        status, promised = 0, True
    return Sample(phase, due, time.monotonic() - due, status, promised)


def open_loop(url: str, phase: str, rate: float, seconds: float) -> list[Sample]:
    """Send ``rate`` requests a second for ``seconds``, each on time; return when the last is answered."""
    count, start = max(1, int(rate * seconds)), time.monotonic() + 0.1

    def work(i: int) -> Sample:
        due = start + i / rate
        time.sleep(max(0.0, due - time.monotonic()))
        return ask(url, phase, due, MIX[i % len(MIX)])

    with ThreadPoolExecutor(min(count, 200)) as pool:
        return list(pool.map(work, range(count)))


@contextlib.contextmanager
def slow_clients(url: str, count: int) -> Iterator[None]:
    """``count`` callers that send a byte every 100 ms and never finish."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    ending = threading.Event()

    def dribble() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as connection:
            head = "POST /api/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n"
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
            while not ending.wait(0.1):
                connection.sendall(b"-")

    threads = [threading.Thread(target=dribble) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def service(folder: Path) -> Iterator[tuple[RunningTorchServe, str, int]]:
    """TorchServe with a tiny model, and the page in a process of its own: (server, the page's URL, its pid)."""
    with running_torchserve(folder, [handler_archive(folder / "archive")]) as server:
        flags = ["--port", "0", "--rate-limit", "off", "--key-file", str(server.home.key_file)]
        for kind in ("inference", "management"):
            flags += [f"--{kind}-url", server.client.url(kind, "")]  # type: ignore[arg-type]
        command = [sys.executable, "-m", "web_client", *flags]
        with subprocess.Popen(command, stdout=-1, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                assert process.stdout is not None
                yield server, process.stdout.readline().split()[-1], process.pid
            finally:
                process.terminate()


def summarize(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """A row per phase: requests, outcomes, and the latency of the answers in milliseconds."""
    rows = []
    for phase in dict.fromkeys(sample.phase for sample in samples):
        chosen = [sample for sample in samples if sample.phase == phase]
        statuses = Counter(sample.status for sample in chosen)
        answered = [1e3 * sample.seconds for sample in chosen if sample.status in (200, 400)] or [
            float("nan")
        ]
        p50, p95, p99 = np.percentile(answered, (50, 95, 99))
        span = max(s.at + s.seconds for s in chosen) - min(s.at for s in chosen)
        others = sum(n for status, n in statuses.items() if status not in (200, 400, 503))
        rows.append(
            {"phase": phase, "asked": len(chosen), "answered": statuses[200] + statuses[400], "503": statuses[503],
             "other or lost": others, "503 without Retry-After": sum(not s.promised for s in chosen),
             "a second": len(answered) / span, "p50 ms": p50, "p95 ms": p95, "p99 ms": p99}
        )  # fmt: skip
    return rows


def load(url: str, seconds: float) -> list[Sample]:
    """Run the phases. The steady rate is 0.4 of what eight busy callers reach, so the burst is four times too much."""
    start, count = time.monotonic(), 80
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: ask(url, "", time.monotonic(), MIX[i % len(MIX)]), range(count)))
    rate = 0.4 * count / (time.monotonic() - start)
    samples = open_loop(url, "steady", rate, seconds)
    samples += open_loop(url, "burst of 10×", 10 * rate, seconds / 4)
    samples += open_loop(url, "steady again", rate, seconds / 2)
    with slow_clients(url, 100):
        samples += open_loop(url, "beside 100 slow clients", rate, seconds)
    return samples


def soak(
    server: RunningTorchServe, url: str, page: int, minutes: float
) -> tuple[list[Sample], list[dict[str, Any]]]:
    """Steady load; answers (samples, a row per process)."""
    (version,) = versions(server.client)
    pids = {
        "worker": int(version.workers[0]["pid"]),
        "page": page,
        "TorchServe (Java)": State.load(server.home).pid,
    }
    samples = open_loop(url, "warm-up", 4, min(60.0, 20 * minutes))  # caches fill, pools are made
    measured: list[dict[str, Any]] = []
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        samples += open_loop(url, "soak", 5, 4)
        row: dict[str, Any] = {"seconds": time.monotonic()}
        for name, pid in pids.items():
            process = psutil.Process(pid)  # gone if it was restarted, and then this fails
            row |= {f"{name} MB": process.memory_info().rss / 1e6, f"{name} files": process.num_fds()}
        measured.append(row)
    return samples, [growth(measured, name) for name in pids]


def growth(measured: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """How much a process grew over the soak: the slope of a line fitted to its measurements.

    Java's memory has no limit here: its heap fills until it is collected, and -Xmx bounds it.
    """
    at = np.array([row["seconds"] for row in measured])
    row: dict[str, Any] = {"process": name}
    for what, bound in (("MB", GROWTH_MB), ("files", GROWTH_FILES)):
        values = np.array([each[f"{name} {what}"] for each in measured])
        grown = float(np.polyfit(at - at[0], values, 1)[0] * (at[-1] - at[0]))
        bounded = what == "files" or "Java" not in name
        row |= {
            what: float(values[-1]),
            f"{what} grown": grown,
            f"{what} allowed": bound if bounded else None,
        }
    return row


def failures(rows: Sequence[dict[str, Any]], grown: Sequence[dict[str, Any]] = ()) -> list[str]:
    """Every broken promise, as a sentence; empty if there is none."""
    found = []
    for row in rows:
        if row["other or lost"]:
            found.append(
                f"{row['phase']}: {row['other or lost']} requests were lost or got an unexpected status"
            )
        if row["503 without Retry-After"]:
            found.append(f"{row['phase']}: a 503 without Retry-After")
        if row["503"] and "burst" not in row["phase"]:
            found.append(f"{row['phase']}: {row['503']} requests were turned away")
    if any("burst" in row["phase"] and not row["503"] for row in rows):
        found.append("the burst did not reach the queue's limit, so it showed nothing")
    for row in grown:
        for what in ("MB", "files"):
            allowed = row[f"{what} allowed"]
            if allowed is not None and row[f"{what} grown"] > allowed:
                found.append(
                    f"{row['process']} grew by {row[f'{what} grown']:.1f} {what}, more than {allowed}"
                )
    return found


def main() -> int:
    parser = argument_parser(__doc__, "reports/load")
    parser.add_argument("--seconds", type=float, default=20, help="length of a phase (default: 20)")
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="instead of the phases, steady for so long"
    )
    args = parser.parse_args()
    name, grown = "soak" if args.soak else "load", []
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as (server, url, page):
        if args.soak:
            samples, grown = soak(server, url, page, args.soak)
        else:
            samples = load(url, args.seconds)
    rows = summarize(samples)
    found = failures(rows, grown)
    where = machine()
    title = f"{where['processor']}, {where['cores']} cores; one worker with a tiny model"
    text = "\n\n".join([title, table(rows), *([table(grown)] if grown else []), *(found or ["No failures."])])
    print(text)
    report = {"machine": where, "rows": rows, "growth": grown, "failures": found}
    save(args.output, name, report, text)
    print(f"\n{args.output}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
