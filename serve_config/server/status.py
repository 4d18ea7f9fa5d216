"""What runs, on one screen: versions, workers, queue, memory, GPUs, last errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

import psutil
from tabulate import tabulate

from serve_config.errors import ServeError
from serve_config.models.archives import read_archive
from serve_config.models.client import Client
from serve_config.models.drift import Week
from serve_config.models.management import Version, default_version, versions
from serve_config.server import processes
from serve_config.server.logs import SERVER_LOG, WORKER_LOG, Record, read_tail, server_errors, worker_errors
from serve_config.server.state import Home, State
from serve_config.server.system_metrics import query_gpus

SHOWN_ERRORS = 5
COUNTED = re.compile(r'^ts_inference_requests_total\{.*?model_version="([^"]*)".*?\} (\S+)$', re.M)


@dataclass(frozen=True)
class VersionStatus:
    """``memory`` is the workers' resident memory in bytes; ``pending`` of ``capacity`` requests are queued."""

    name: str
    default: bool
    ready: bool
    workers: list[str]  # their states: READY, UNLOADED, …
    pending: int
    capacity: int
    memory: int
    archive: str
    drift: str  # how its pictures differ from those that it was judged by, if they do

    @classmethod
    def of(cls, version: Version, default: str | None, store: Path, week: Week) -> VersionStatus:
        """TorchServe's description, with its workers' memory and how its pictures differ."""
        usual = None
        with contextlib.suppress(ServeError):  # a version is served although its archive is gone
            usual = read_archive(store / version.archive).uncertainty
        return cls(
            name=version.name,
            default=version.name == default,
            ready=version.ready,
            workers=[str(worker["status"]) for worker in version.workers],
            pending=version.pending,
            capacity=version.capacity,
            memory=sum(resident_memory(int(worker["pid"])) for worker in version.workers),
            archive=version.archive,
            drift=week.drift(version.name, usual),
        )


@dataclass
class Status:
    """``problem`` says why ``healthy`` is false; ``memory_free`` is the machine's, in bytes.

    ``requests`` counts predictions since the start by the version in their URL; "default" for those without one.
    """

    home: str
    server: str
    healthy: bool = False
    problem: str = ""
    pid: int = 0
    since: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    memory_free: int = 0
    gpus: list[str] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    versions: list[VersionStatus] = field(default_factory=list)
    previous_defaults: list[str] = field(default_factory=list)
    errors: list[Record] = field(default_factory=list)


def collect(home: Home) -> Status:
    """Inspect the processes, ask the server, read its logs. Raises ServeError only for a damaged state file."""
    state = State.load(home)
    status = Status(str(home.path), state.server, gpus=gpus(), previous_defaults=state.history)
    status.memory_free = psutil.virtual_memory().available
    status.errors = last_errors(home) if state.pid else []
    process = processes.running(state)
    if process is None:
        ended = "ended without being stopped" if state.pid else "is not running"
        status.problem = f"{state.server} {ended}: start it with `maskrcnn serve start`"
        return status
    status.pid, status.ports = process.pid, state.ports
    status.since = datetime.fromtimestamp(process.create_time()).isoformat(" ", "seconds")
    try:
        client = Client(home)
        default, page = default_version(client), client.metrics()
        status.requests = {name: int(float(count)) for name, count in COUNTED.findall(page)}
        store, week = Path(state.store), Week.of(home, page, date.today())
        status.versions = [VersionStatus.of(each, default, store, week) for each in versions(client)]
    except ServeError as error:
        status.problem = f"{state.server}'s process is running but does not answer: {error}"
        return status
    if broken := [version.name for version in status.versions if not version.ready]:
        status.problem = f"{', '.join(broken)} has too few READY workers: see the last errors"
    status.healthy = not broken
    return status


def last_errors(home: Home) -> list[Record]:
    """The last errors of workers and server, the newest last."""
    errors = worker_errors(read_tail(home.logs / WORKER_LOG))
    errors += server_errors(read_tail(home.logs / SERVER_LOG))
    return sorted(errors, key=lambda error: error.time)[-SHOWN_ERRORS:]


def resident_memory(pid: int) -> int:
    """In bytes; 0 for a process that has ended, or -1, TorchServe's number of a worker that has none."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.Error, ValueError):
        return 0


def gpus() -> list[str]:
    """One line per GPU, e.g. ``NVIDIA H200, 12 % busy, 3021 of 143771 MiB``."""
    return [f"{name}, {busy} % busy, {used} of {total} MiB" for _, name, busy, used, total in query_gpus()]


def as_text(status: Status) -> str:
    """The status for a person to read."""
    parts = []
    if status.pid:
        counts = [f"{count} to {name}" for name, count in sorted(status.requests.items())]
        facts = [
            (status.server, f"process {status.pid}, running since {status.since}, state in {status.home}"),
            (
                "ports",
                ", ".join(f"{name} {port}" for name, port in status.ports.items()) + " (loopback only)",
            ),
            ("memory", f"{megabytes(status.memory_free)} free"),
            *(("GPU", gpu) for gpu in status.gpus or ["none"]),
            ("predictions", ", ".join(counts) or "none yet"),
            *(("drift", f"{version.name}: {version.drift}") for version in status.versions if version.drift),
            *(("rollback to", name) for name in status.previous_defaults[-1:]),
        ]
        rows = [
            {
                "VERSION": version.name,
                "": "default" if version.default else "",
                "WORKERS": " ".join(version.workers) or "none",
                "QUEUE": f"{version.pending}/{version.capacity}",
                "MEMORY": megabytes(version.memory),
                "ARCHIVE": version.archive,
            }
            for version in status.versions
        ]
        parts += [table(facts), table(rows) if rows else "nothing is registered"]
    if status.errors:
        errors = [(e.time[:19].replace("T", " "), e.version or "server", e.message) for e in status.errors]
        parts.append(f"last errors\n{table(errors)}")
    return "\n\n".join([*parts, "healthy" if status.healthy else status.problem])


def table(rows: Sequence[dict[str, str] | tuple[str, ...]]) -> str:
    """Columns of equal width, two spaces apart; the keys of dictionaries are the headings."""
    headings = "keys" if isinstance(rows[0], dict) else ()
    return tabulate(rows, headings, tablefmt="plain", disable_numparse=True)


def megabytes(count: int) -> str:
    """Bytes for a person to read."""
    return f"{count / 2**20:,.0f} MB"
