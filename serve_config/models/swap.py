"""Change the default version without losing a request, and go back.

A swap is TorchServe's own set-default, made safe: the new version is registered and READY and has answered a
probe before it gets the name. Requests that wait for the old version are answered by it. Whatever fails
before the last step leaves the old default serving.
"""

from __future__ import annotations

import contextlib
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from serve_config.errors import ServeError
from serve_config.models.archives import find_archive, read_archive
from serve_config.models.client import Client, Refused
from serve_config.models.management import (
    Say,
    default_version,
    model_path,
    refuse_other_classes,
    register,
    remember,
    set_default,
    unregister,
    versions,
)
from serve_config.server.state import State

LONGEST_HISTORY = 20


def swap(
    client: Client,
    name: str,
    say: Say,
    *,
    allow_other_classes: bool = False,
    unregister_old: bool = False,
    drain_timeout: float = 120.0,
    remember_old: bool = True,
) -> str | None:
    """Make version ``name`` the default, registering it from the model store if needed. Returns the old
    default.

    With ``unregister_old`` the old version is taken down once it has answered everything; ``drain_timeout``
    in seconds. Raises ServeError; then the old default serves on.
    """
    old = default_version(client)
    if name == old:
        raise ServeError(f"version {name} is the default already")
    registered = {version.name for version in versions(client)}
    state = State.load(client.home)
    archive = None
    if name not in registered or name in state.models:
        path = (
            Path(state.store) / state.models[name]
            if name in state.models
            else find_archive(name, Path(state.store))
        )
        archive = read_archive(path)
        if archive.version != name:
            raise ServeError(f"{path} holds version {archive.version}, not {name}: swap to {archive.version}")
        refuse_other_classes(archive, client, allow_other_classes)
    if name not in registered and archive is not None:
        say(f"registering {name} …")
        register(client, archive, say)
    elif not next(version for version in versions(client) if version.name == name).ready:
        raise ServeError(f"version {name} is registered but its workers are not READY: look at `status`")
    probe(client, name)
    set_default(client, name)
    state = State.load(client.home)
    if old is not None and remember_old:
        state.history = [*state.history, old][-LONGEST_HISTORY:]
        state.save(client.home)
    remember(client)
    if unregister_old and old is not None:
        say(f"waiting until {old} has answered everything …")
        drain(client, old, drain_timeout)
        unregister(client, old)
    return old


def rollback(client: Client, say: Say) -> tuple[str, str | None]:
    """Make the default before the last swap the default again. Returns it and the version it replaced.

    Raises ServeError; then the present default serves on.
    """
    state = State.load(client.home)
    current = default_version(client)
    history = [name for name in state.history if name != current]
    if not history:
        raise ServeError("there is nothing to roll back to: no swap was made since TorchServe was set up")
    old = swap(client, history[-1], say, allow_other_classes=True, remember_old=False)
    state = State.load(client.home)
    state.history = history[:-1]
    state.save(client.home)
    return history[-1], old


def probe(client: Client, name: str) -> None:
    """Send a small picture to a version. Raises ServeError unless it answers 200."""
    try:
        send_probe(client, name)
    except Refused as refused:
        raise ServeError(
            f"version {name} does not answer a probe picture, so nothing was switched; {refused}"
        ) from refused


def send_probe(client: Client, name: str) -> None:
    """Raises Refused unless the version answers a small picture with 200."""
    client.json("inference", "POST", model_path(name, "/predictions"), data=probe_png(), timeout=120)


def drain(client: Client, name: str, timeout: float) -> None:
    """Wait until a version has nothing left to answer, so that unregistering it (which kills its workers)
    loses nothing.

    TorchServe tells how many requests wait, but not how many are being worked on. The queue is first in,
    first out: once it is empty and a probe has come back, one worker is idle. With more workers their
    processor time must stand still too. Raises ServeError if that does not happen within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        version = next((version for version in versions(client) if version.name == name), None)
        if version is None:
            return
        if version.pending == 0:
            pids = [int(worker["pid"]) for worker in version.workers if worker["status"] == "READY"]
            if not pids:
                return  # nobody is left who could be answering
            with (
                ThreadPoolExecutor(len(pids)) as pool,
                contextlib.suppress(Refused),
            ):  # a worker that dies is idle, too
                list(pool.map(lambda _: send_probe(client, name), pids))
            before = processor_seconds(pids)
            time.sleep(0.5)
            if len(pids) == 1 or processor_seconds(pids) - before < 0.05:
                return
        if time.monotonic() > deadline:
            raise ServeError(
                f"the switch is made, but version {name} still gets requests after {timeout:.0f} s "
                "and stays registered: "
                f"`unregister {name}` when it is quiet"
            )
        time.sleep(0.2)


def processor_seconds(pids: list[int]) -> float:
    """The processor time that the processes have used so far, in seconds."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def probe_png(side: int = 64) -> bytes:
    """A gray square as PNG, made by hand so that this package needs no imaging library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x80\x80\x80" * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
