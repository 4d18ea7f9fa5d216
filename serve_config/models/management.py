"""TorchServe's management API: register, list, set the default, unregister."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serve_config.errors import ServeError
from serve_config.models.archives import (
    Archive,
    bring_into_store,
    read_archive,
    verify,
)
from serve_config.models.client import Client, Refused
from serve_config.server.logs import Attempt
from serve_config.server.state import MODEL, State

Say = Callable[[str], None]

# seconds; longer than TorchServe's default_startup_timeout, so that TorchServe reports first
LOAD_TIMEOUT = 420.0


@dataclass(frozen=True)
class Version:
    """A registered version. ``workers`` are TorchServe's own dicts: id, status, pid, gpu, gpuUsage."""

    name: str
    archive: str
    workers: list[dict[str, Any]]
    wanted_workers: int
    pending: int
    capacity: int

    @property
    def ready(self) -> bool:
        """Whether all of its workers are READY."""
        return len(self.workers) >= self.wanted_workers and all(
            worker["status"] == "READY" for worker in self.workers
        )


def model_path(version: str | None = None, prefix: str = "/models") -> str:
    """The URL path of the model, or of one version of it."""
    return f"{prefix}/{MODEL}" + (f"/{quote(version, safe='')}" if version else "")


def versions(client: Client) -> list[Version]:
    """Every registered version, by name. Raises ServeError."""
    return sorted(map(_version, _described(client, "all")), key=lambda version: version.name)


def find_version(client: Client, name: str) -> Version | None:
    """The registered version of that name, or None. Raises ServeError."""
    return next((version for version in versions(client) if version.name == name), None)


def default_version(client: Client) -> str | None:
    """The version that answers ``/predictions/maskrcnn``, or None if nothing is registered."""
    return next((str(entry["modelVersion"]) for entry in _described(client)), None)


def _described(client: Client, version: str | None = None) -> list[dict[str, Any]]:
    """TorchServe's description of the default, or of ``all`` versions; empty if nothing is registered."""
    try:
        return list(client.json("management", "GET", model_path(version)))
    except Refused as refused:
        if refused.status == 404:
            return []
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


def listing(client: Client) -> list[dict[str, Any]]:
    """The registered versions, then the other archives in the store. Raises ServeError."""
    store, default = Path(State.load(client.home).store), default_version(client)
    registered = {version.archive: version for version in versions(client)}
    entries = []
    for name in [*registered, *sorted({path.name for path in store.glob("*.mar")} - registered.keys())]:
        entry: dict[str, Any] = {"version": "?", "default": False, "state": "in the store", "classes": []}
        try:
            archive = read_archive(store / name)
            entry |= {"version": archive.version, "classes": archive.classes or []}
        except ServeError as error:
            entry["state"] = str(error)
        if version := registered.get(name):
            state = "READY" if version.ready else "not ready"
            entry |= {"version": version.name, "state": state, "default": version.name == default}
        entries.append(entry | {"archive": name})
    return entries


def register(client: Client, archive: Archive, say: Say, timeout: float = LOAD_TIMEOUT) -> str:
    """Verify an archive, bring it into the store, register it, and wait for its workers. Returns its version.

    A version whose worker fails is unregistered again. Raises ServeError with the worker's own error.
    """
    if find_version(client, archive.version):
        raise ServeError(
            f"version {archive.version} is registered already: make it the default with `swap {archive.version}`; "
            f"to load another file under that name, `unregister {archive.version}` first"
        )
    verify(archive.path)
    state = State.load(client.home)
    store = Path(state.store)
    name, copied = bring_into_store(archive, store)
    if copied:
        say(f"copied {archive.path} to {store / name}")
    attempt = Attempt(client.home.logs, archive.version)
    try:
        # By its name in the store: TorchServe deletes an archive that was registered by a file:// URL when it
        # is unregistered. Not synchronous: TorchServe would block a thread that also carries predictions.
        options = {"url": name, "synchronous": "false"}
        wanted = {"initial_workers": str(state.workers)} if state.workers else {}
        client.json("management", "POST", "/models", params=options | wanted, timeout=90)
        registered = find_version(client, archive.version)
        if wanted and registered and registered.wanted_workers != state.workers:  # the archive's number won
            scale = {"min_worker": state.workers, "max_worker": state.workers}
            client.json("management", "PUT", model_path(archive.version), params=scale, timeout=90)
        _wait_ready(client, attempt, timeout)
    except BaseException as error:  # Ctrl-C included
        # asked before it is unregistered, which ends the worker while it writes its error
        words = attempt.reason() if isinstance(error, _WorkerEnded) else None
        _discard(client, archive.version)
        if not isinstance(error, ServeError):
            raise
        reason = f"its worker says: {words}" if words else str(error)
        raise ServeError(
            f"version {archive.version} ({name}) does not start, and was removed again; {reason}"
        ) from error
    remember(client)
    return archive.version


def _wait_ready(client: Client, attempt: Attempt, timeout: float) -> None:
    """Wait for the workers. TorchServe restarts a worker that cannot load; only its log says so."""
    deadline = time.monotonic() + timeout
    while not ((version := find_version(client, attempt.version)) and version.ready):
        if attempt.failed():
            raise _WorkerEnded("its worker ended while it loaded the model and gave no reason")
        if time.monotonic() > deadline:
            raise ServeError(f"it has no READY worker after {timeout:.0f} s")
        time.sleep(0.2)


class _WorkerEnded(ServeError):
    """A worker ended before it was READY."""


def _discard(client: Client, name: str) -> None:
    """Unregister a version that failed to start, or TorchServe would go on trying. Errors are ignored."""
    with contextlib.suppress(ServeError):
        if find_version(client, name):
            client.json("management", "DELETE", model_path(name))


def set_default(client: Client, name: str) -> None:
    """Let ``name`` answer ``/predictions/maskrcnn``. Raises ServeError."""
    client.json("management", "PUT", f"{model_path(name)}/set-default")


def unregister(client: Client, name: str) -> None:
    """Unregister a version. Raises ServeError for the default and for one that is not registered."""
    registered = [version.name for version in versions(client)]
    if name not in registered:
        raise ServeError(
            f"version {name} is not registered (registered: {', '.join(registered) or 'nothing'})"
        )
    if name == default_version(client) and len(registered) > 1:
        raise ServeError(f"version {name} is the default: `swap` to another one first")
    client.json("management", "DELETE", model_path(name), timeout=90)
    remember(client)


def remember(client: Client) -> None:
    """Save what is registered, in the order of registration, for the next start to restore."""
    state = State.load(client.home)
    current = {version.name: version.archive for version in versions(client)}
    kept = {name: current[name] for name in state.models if name in current}
    state.models = kept | current
    state.default = default_version(client)
    state.save(client.home)


def refuse_other_classes(archive: Archive, client: Client, allow: bool) -> None:
    """Refuse a version whose classes differ from the default's: every client would see other names.

    Raises ServeError unless ``allow`` is set.
    """
    state = State.load(client.home)
    default = default_version(client)
    if allow or default is None or default not in state.models:
        return
    serving = read_archive(Path(state.store) / state.models[default])
    if serving.classes is not None and archive.classes is not None and serving.classes != archive.classes:
        raise ServeError(
            f"version {archive.version} has the classes {', '.join(archive.classes)}, and the default {default} has "
            f"{', '.join(serving.classes)}: if that is intended, add --allow-other-classes"
        )
