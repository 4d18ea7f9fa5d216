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
    original_name,
    read_archive,
    verify,
    with_overrides,
)
from serve_config.models.client import Client, Refused
from serve_config.server.logs import Mark, last_words, load_failed
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
        archive=original_name(str(entry["modelUrl"])),
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
    state = State.load(client.home)
    if any(version.name == archive.version for version in versions(client)):
        raise ServeError(
            f"version {archive.version} is registered already: make it the default with `swap {archive.version}`; "
            f"to load another file under that name, `unregister {archive.version}` first"
        )
    verify(archive.path)
    store = Path(state.store)
    name, copied = bring_into_store(archive, store)
    if copied:
        say(f"copied {archive.path} to {store / name}")
    mark = Mark.now(client.home.logs)
    try:
        with with_overrides(store / name, state.overrides) as registered:
            # By its name in the store: TorchServe deletes an archive that was registered by a file:// URL when it
            # is unregistered. Not synchronous: TorchServe would block a thread that also carries predictions.
            options = {"url": registered, "synchronous": "false"}
            client.json("management", "POST", "/models", params=options, timeout=90)
        _wait_ready(client, archive.version, mark, timeout)
    except BaseException as error:  # Ctrl-C included
        # before it is unregistered, which ends the worker in the middle of its last words
        words = (
            last_words(client.home.logs, archive.version, mark) if isinstance(error, _WorkerEnded) else None
        )
        _discard(client, archive.version)
        if not isinstance(error, ServeError):
            raise
        reason = f"its worker says: {words}" if words else str(error)
        raise ServeError(
            f"version {archive.version} ({name}) does not start, and was removed again; {reason}"
        ) from error
    remember(client)
    return archive.version


def _wait_ready(client: Client, name: str, mark: Mark, timeout: float) -> None:
    """Wait for the workers. TorchServe restarts a worker that cannot load; only its log says so."""
    deadline = time.monotonic() + timeout
    while not any(version.name == name and version.ready for version in versions(client)):
        if load_failed(client.home.logs, name, mark.server):
            raise _WorkerEnded("its worker ended while it loaded the model and gave no reason")
        if time.monotonic() > deadline:
            raise ServeError(f"it has no READY worker after {timeout:.0f} s")
        time.sleep(0.2)


class _WorkerEnded(ServeError):
    """A worker ended before it was READY."""


def _discard(client: Client, name: str) -> None:
    """Unregister a version that failed to start, or TorchServe would go on trying. Errors are ignored."""
    with contextlib.suppress(ServeError):
        if any(version.name == name for version in versions(client)):
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
