"""What TorchServe serves: register, list, choose the default, unregister, by its management API."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serve_config.errors import ServeError
from serve_config.models.archives import Archive, bring_into_store, read_archive
from serve_config.models.client import Client, Refused
from serve_config.server.logs import last_worker_error, load_failed, log_size
from serve_config.server.state import MODEL, State

Say = Callable[[str], None]

# seconds; above TorchServe's own default_startup_timeout, so that it is the one to judge
LOAD_TIMEOUT = 420.0


@dataclass(frozen=True)
class Version:
    """A registered version as TorchServe describes it. ``workers`` are its own dicts: id, status, pid, gpu,
    gpuUsage.
    """

    name: str
    archive: str
    workers: list[dict[str, Any]]
    wanted_workers: int
    pending: int
    capacity: int

    @property
    def ready(self) -> bool:
        return len(self.workers) >= self.wanted_workers and all(
            worker["status"] == "READY" for worker in self.workers
        )


def model_path(version: str | None = None, prefix: str = "/models") -> str:
    return f"{prefix}/{MODEL}" + (f"/{quote(version, safe='')}" if version else "")


def versions(client: Client) -> list[Version]:
    """Every registered version, by name. Raises ServeError."""
    try:
        described = client.json("management", "GET", model_path("all"))
    except Refused as refused:
        if refused.status == 404:
            return []
        raise
    return sorted((_version(entry) for entry in described), key=lambda version: version.name)


def default_version(client: Client) -> str | None:
    """The version that answers ``/predictions/maskrcnn``, or None if nothing is registered."""
    try:
        return str(client.json("management", "GET", model_path())[0]["modelVersion"])
    except Refused as refused:
        if refused.status == 404:
            return None
        raise


def _version(entry: dict[str, Any]) -> Version:
    queue = entry.get("jobQueueStatus") or {}
    pending, remaining = int(queue.get("pendingRequests", 0)), int(queue.get("remainingCapacity", 0))
    return Version(
        name=str(entry["modelVersion"]),
        archive=str(entry["modelUrl"]),
        workers=entry.get("workers", []),
        wanted_workers=int(entry["minWorkers"]),
        pending=pending,
        capacity=pending + remaining,
    )


def register(client: Client, archive: Archive, say: Say, timeout: float = LOAD_TIMEOUT) -> str:
    """Bring an archive into the store, register it, wait until its workers are READY. Returns its version.

    If a worker fails, the version is unregistered again. Raises ServeError with the worker's own error.
    """
    state = State.load(client.home)
    if any(version.name == archive.version for version in versions(client)):
        raise ServeError(
            f"version {archive.version} is registered already: `swap {archive.version}` makes it "
            "the default; to load "
            f"another file under that name, `unregister {archive.version}` first"
        )
    name, copied = bring_into_store(archive, Path(state.store))
    if copied:
        say(f"copied {archive.path} to {Path(state.store) / name}")
    logs = client.home.logs
    server_logged, workers_logged = log_size(logs / "ts_log.log"), log_size(logs / "model_log.log")
    try:
        # By its name in the store: what was registered by a file:// URL, TorchServe would delete at
        # unregistering. Not synchronous: TorchServe would wait in one of the threads that also carry
        # predictions, and every caller on that thread with it, until the model is loaded.
        options = {"url": name, "synchronous": "false"}
        client.json("management", "POST", "/models", params=options, timeout=90)
        _wait_ready(client, archive.version, server_logged, timeout)
    except ServeError as error:
        _discard(client, archive.version)
        patience = 5.0 if isinstance(error, _WorkerEnded) else 0.0
        why = _last_words(logs, archive.version, workers_logged, patience)
        reason = f"its worker says: {why}" if why else str(error)
        raise ServeError(
            f"version {archive.version} ({name}) does not start, and was removed again; {reason}"
        ) from error
    remember(client)
    return archive.version


def _wait_ready(client: Client, name: str, logged: int, timeout: float) -> None:
    """Wait for the workers. TorchServe goes on starting a worker that fails to load and tells nobody: only
    its log says so.
    """
    deadline = time.monotonic() + timeout
    while not any(version.name == name and version.ready for version in versions(client)):
        if load_failed(client.home.logs, name, logged):
            raise _WorkerEnded("its worker ended while it loaded the model and gave no reason")
        if time.monotonic() > deadline:
            raise ServeError(f"it has no READY worker after {timeout:.0f} s")
        time.sleep(0.2)


class _WorkerEnded(ServeError):
    """A worker ended before it was READY."""


def _last_words(logs: Path, name: str, logged: int, patience: float) -> str | None:
    """What a worker raised last. It goes through a log of its own, on a busy machine seconds later: wait so long."""
    deadline = time.monotonic() + patience
    time.sleep(min(0.5, patience))  # a traceback that follows from another one may still be on its way
    while not (why := last_worker_error(logs, name, logged)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return why


def _discard(client: Client, name: str) -> None:
    """Unregister what failed to start, so that TorchServe does not try for ever. Nothing more can be done if
    that fails.
    """
    try:
        if any(version.name == name for version in versions(client)):
            client.json("management", "DELETE", model_path(name))
    except ServeError:
        pass


def set_default(client: Client, name: str) -> None:
    client.json("management", "PUT", f"{model_path(name)}/set-default")


def unregister(client: Client, name: str) -> None:
    """Raises ServeError for the default and for what is not registered."""
    registered = [version.name for version in versions(client)]
    if name not in registered:
        raise ServeError(
            f"version {name} is not registered (registered: {', '.join(registered) or 'nothing'})"
        )
    if name == default_version(client) and len(registered) > 1:
        raise ServeError(f"version {name} is the default and serves: `swap` to another one first")
    client.json("management", "DELETE", model_path(name), timeout=90)
    remember(client)


def remember(client: Client) -> None:
    """Save what is registered now, in the order it came, so that the next start brings it back."""
    state = State.load(client.home)
    current = {version.name: version.archive for version in versions(client)}
    kept = {name: current[name] for name in state.models if name in current}
    state.models = kept | current
    state.default = default_version(client)
    state.save(client.home)


def refuse_other_classes(archive: Archive, client: Client, allow: bool) -> None:
    """A version whose class names differ from the default's changes what every client is told. Raises
    ServeError.
    """
    state = State.load(client.home)
    default = default_version(client)
    if allow or default is None or default not in state.models:
        return
    serving = read_archive(Path(state.store) / state.models[default])
    if serving.classes is not None and archive.classes is not None and serving.classes != archive.classes:
        raise ServeError(
            f"version {archive.version} tells {', '.join(archive.classes)} apart, and {default}, "
            "which serves now, "
            f"{', '.join(serving.classes)}: if that is meant, add --allow-other-classes"
        )
