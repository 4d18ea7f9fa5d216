"""What runs, on one screen: versions, workers, queue, memory, GPU, last errors."""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import psutil
from tabulate import tabulate

from serve_config.errors import ServeError
from serve_config.models.archives import read_archive
from serve_config.models.client import Client
from serve_config.models.drift import Week
from serve_config.models.management import Version, default_version, versions
from serve_config.server import processes
from serve_config.server.logs import LogError, read_tail, server_errors, worker_errors
from serve_config.server.state import MODEL, Home, State
from serve_config.server.system_metrics import query_gpus

SHOWN_ERRORS = 5
COUNTED = re.compile(
    r'^ts_inference_requests_total\{.*?model_version="(?P<version>[^"]*)".*?\} (?P<count>\S+)$', re.M
)


@dataclass(frozen=True)
class VersionStatus:
    """``memory`` is the workers' resident memory in bytes; ``pending`` of ``capacity`` requests are queued."""

    name: str
    default: bool
    ready: bool
    workers: list[str]  # their states: READY, UNLOADED, …
    wanted_workers: int
    pending: int
    capacity: int
    memory: int
    gpu: list[str]
    archive: str
    drift: str  # how its pictures differ from those that it was judged by, if they do

    @classmethod
    def of(cls, version: Version, default: str | None, store: Path, week: Week) -> VersionStatus:
        """TorchServe's description, with its workers' memory and how its pictures differ."""
        usual = None
        with contextlib.suppress(ServeError):  # a version is served although its archive is gone
            usual = read_archive(store / version.archive).uncertainty
        pids = [int(worker["pid"]) for worker in version.workers if int(worker["pid"]) > 0]
        return cls(
            name=version.name,
            default=version.name == default,
            ready=version.ready,
            workers=[str(worker["status"]) for worker in version.workers],
            wanted_workers=version.wanted_workers,
            pending=version.pending,
            capacity=version.capacity,
            memory=resident_memory(pids),
            gpu=[str(worker["gpuUsage"]) for worker in version.workers if worker.get("gpu")],
            archive=version.archive,
            drift=week.drift(version.name, usual),
        )


@dataclass
class Status:
    """Memory in bytes, ``uptime`` in seconds. ``problem`` says why ``healthy`` is false.

    ``requests`` counts predictions since the start by the version in their URL; "default" for those without one.
    """

    home: str
    server: str
    healthy: bool = False
    problem: str = ""
    pid: int = 0
    uptime: float = 0.0
    ports: dict[str, int] = field(default_factory=dict)
    frontend_memory: int = 0
    machine_memory: int = 0
    machine_memory_free: int = 0
    gpus: list[str] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    versions: list[VersionStatus] = field(default_factory=list)
    previous_defaults: list[str] = field(default_factory=list)
    errors: list[LogError] = field(default_factory=list)


def collect(home: Home) -> Status:
    """Inspect the processes, ask TorchServe, read its logs. Raises ServeError only for a damaged state file."""
    state = State.load(home)
    memory = psutil.virtual_memory()
    status = Status(
        str(home.path),
        state.server,
        machine_memory=memory.total,
        machine_memory_free=memory.available,
        gpus=gpus(),
    )
    status.previous_defaults = state.history
    process = processes.running(state)
    if process is None:
        ended = "ended without being stopped" if state.pid else "is not running"
        status.problem = f"{state.server} {ended}: start it with `maskrcnn serve start`"
        status.errors = last_errors(home) if state.pid else []
        return status
    status.pid, status.ports = process.pid, state.ports
    status.uptime = time.time() - process.create_time()
    status.frontend_memory = resident_memory([process.pid])
    status.errors = last_errors(home)
    try:
        client = Client(home)
        default = default_version(client)
        page = client.metrics()
        status.requests = requests_by_version(page)
        store, week = Path(state.store), Week.of(home, page, date.today())
        status.versions = [VersionStatus.of(each, default, store, week) for each in versions(client)]
    except ServeError as error:
        status.problem = f"{state.server}'s process is running but does not answer: {error}"
        return status
    broken = [version.name for version in status.versions if not version.ready]
    if broken:
        status.problem = f"{', '.join(broken)} has too few READY workers: see the last errors"
    status.healthy = not broken
    return status


def requests_by_version(metrics: str) -> dict[str, int]:
    """Read the counts from TorchServe's Prometheus page.

    >>> requests_by_version('ts_inference_requests_total{model_name="m",model_version="v",hostname="h",} 3.0')
    {'v': 3}
    """
    return {found["version"]: int(float(found["count"])) for found in COUNTED.finditer(metrics)}


def last_errors(home: Home) -> list[LogError]:
    """The last errors of workers and server, the newest last."""
    errors = worker_errors(read_tail(home.logs / "model_log.log"))
    errors += server_errors(read_tail(home.logs / "ts_log.log"))
    return sorted(errors, key=lambda error: error.time)[-SHOWN_ERRORS:]


def resident_memory(pids: list[int]) -> int:
    """In bytes; a process that has ended counts as 0."""
    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.Error:
            continue
    return total


def gpus() -> list[str]:
    """One line per GPU, e.g. ``NVIDIA H200, 12 % busy, 3021 of 143771 MiB``."""
    return [f"{name}, {busy} % busy, {used} of {total} MiB" for _, name, busy, used, total in query_gpus()]


def as_json(status: Status) -> str:
    """The status as JSON."""
    return json.dumps(asdict(status), indent=2)


def as_text(status: Status) -> str:
    """The status for a person to read."""
    lines = [*_overview(status), ""] if status.pid else []
    if status.errors:
        lines.append("last errors")
        for error in status.errors:
            when = error.time[:19].replace("T", " ")
            lines.append(f"  {when}  {error.version or 'server'}  {error.message[:160]}")
        lines.append("")
    return "\n".join([*lines, "healthy" if status.healthy else status.problem])


def _overview(status: Status) -> list[str]:
    ports = ", ".join(f"{name.replace('_', ' ')} {port}" for name, port in status.ports.items())
    workers = sum(version.memory for version in status.versions)
    counts = [f"{count} to {name}" for name, count in sorted(status.requests.items())]
    lines = [
        f"{status.server:12} running for {duration(status.uptime)}, process {status.pid}, state in {status.home}",
        f"ports        {ports} (loopback only)",
        f"memory       frontend {size(status.frontend_memory)}, workers {size(workers)}; "
        f"{size(status.machine_memory_free)} of {size(status.machine_memory)} free",
        *(f"GPU          {gpu}" for gpu in status.gpus or ["none"]),
        f"predictions  {', '.join(counts) or 'none yet'}",
    ]
    lines += [f"drift        {each.name}: {each.drift}" for each in status.versions if each.drift]
    if status.previous_defaults:
        lines.append(f"rollback to  {status.previous_defaults[-1]}")
    if not status.versions:
        return [*lines, "", "nothing is registered"]
    rows = [
        [
            version.name,
            "default" if version.default else "",
            " ".join(version.workers) or "none",
            f"{version.pending}/{version.capacity}",
            size(version.memory),
            version.archive,
        ]
        for version in status.versions
    ]
    return [*lines, "", table(["VERSION", "", "WORKERS", "QUEUE", "MEMORY", "ARCHIVE"], rows)]


def models_table(client: Client, as_json: bool) -> str:
    """The registered versions, then the other archives in the store. Raises ServeError."""
    store = Path(State.load(client.home).store)
    default = default_version(client)
    entries: list[dict[str, Any]] = []
    registered = {version.archive: version for version in versions(client)}
    for name in [*registered, *sorted({path.name for path in store.glob("*.mar")} - registered.keys())]:
        entry: dict[str, Any] = {"version": "?", "state": "in the store", "default": False, "archive": name}
        try:
            archive = read_archive(store / name)
            entry |= {"version": archive.version, "classes": archive.classes}
        except ServeError as error:
            entry["state"] = str(error)
        if version := registered.get(name):
            state = "READY" if version.ready else "not ready"
            entry |= {"version": version.name, "state": state, "default": version.name == default}
        entries.append(entry)
    if as_json:
        return json.dumps({"model": MODEL, "store": str(store), "versions": entries}, indent=2)
    if not entries:
        return f"nothing is registered, and {store} holds no archive"
    rows = [
        [
            entry["version"],
            "default" if entry["default"] else "",
            entry["state"],
            ", ".join(entry.get("classes") or []),
            entry["archive"],
        ]
        for entry in entries
    ]
    return table(["VERSION", "", "STATE", "CLASSES", "ARCHIVE"], rows)


def table(headers: list[str], rows: list[list[str]]) -> str:
    """Columns of equal width, two spaces apart."""
    return tabulate(rows, headers, tablefmt="plain", disable_numparse=True)


def size(count: float) -> str:
    """Bytes for a person to read.

    >>> size(1536 * 1024**2)
    '1.5 GB'
    """
    return f"{count / 1024**3:.1f} GB" if count >= 1024**3 else f"{count / 1024**2:.0f} MB"


def duration(seconds: float) -> str:
    """Two units for a person to read.

    >>> duration(7384)
    '2 h 3 min'
    """
    days, hours, minutes = int(seconds // 86400), int(seconds // 3600 % 24), int(seconds // 60 % 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds % 60)} s"
