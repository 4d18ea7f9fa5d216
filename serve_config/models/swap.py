"""Change the default version without losing a request, and go back.

A swap is TorchServe's own set-default, made safe: the new version must be registered and READY and must have
answered a probe before it becomes the default. Requests already queued for the old version are answered by it. A
failure before the last step leaves the old default serving.
"""

from __future__ import annotations

import contextlib
import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from serve_config.errors import ServeError
from serve_config.models.archives import find_archive, read_archive
from serve_config.models.client import Client, Refused
from serve_config.models.management import (
    Say,
    default_version,
    find_version,
    model_path,
    refuse_other_classes,
    register,
    remember,
    set_default,
    unregister,
)
from serve_config.server.properties import ANSWER_TIMEOUT
from serve_config.server.state import State

LONGEST_HISTORY = 20


def swap(
    client: Client,
    name: str,
    say: Say,
    *,
    allow_other_classes: bool = False,
    unregister_old: bool = False,
) -> str | None:
    """Make version ``name`` the default, registering it from the store if needed. Returns the old default, which may
    be ``name`` itself.

    With ``unregister_old`` the old version is removed once it has answered everything. Raises ServeError; until the
    last step has succeeded, the old default goes on serving.
    """
    old = default_version(client)
    if name == old:
        return old
    _make_ready(client, name, say, allow_other_classes)
    try:
        probe(client, name)
    except Refused as refused:
        message = f"version {name} does not answer a probe image, so the default stays; {refused}"
        raise ServeError(message) from refused
    set_default(client, name)
    state = State.load(client.home)
    if old is not None:
        state.history = [*state.history, old][-LONGEST_HISTORY:]
        state.save(client.home)
    remember(client)
    if unregister_old and old is not None:
        say(f"waiting until {old} has answered everything …")
        drain(client, old)
        unregister(client, old)
    return old


def _make_ready(client: Client, name: str, say: Say, allow_other_classes: bool) -> None:
    """Register ``name`` unless it is registered. Raises ServeError unless it is READY with the right classes."""
    registered, state = find_version(client, name), State.load(client.home)
    store, known = Path(state.store), state.models.get(name)
    if known or not registered:
        archive = read_archive(store / known if known else find_archive(name, store))
        if archive.version != name:
            raise ServeError(
                f"{archive.path} holds version {archive.version}, not {name}: swap to {archive.version}"
            )
        refuse_other_classes(archive, client, allow_other_classes)
        if not registered:
            say(f"registering {name} …")
            register(client, archive, say)
    if registered and not registered.ready:
        raise ServeError(
            f"version {name} is registered but its workers are not READY: look at `maskrcnn serve status`"
        )


def rollback(client: Client, say: Say) -> tuple[str, str | None]:
    """Restore the default before the last swap. Returns it and the version it replaced.

    Raises ServeError; then the present default goes on serving.
    """
    state = State.load(client.home)
    current = default_version(client)
    history = [name for name in state.history if name != current]
    if not history:
        raise ServeError("there is nothing to roll back to: no swap has been made")
    old = swap(client, history[-1], say, allow_other_classes=True)
    state = State.load(client.home)
    state.history = history[:-1]
    state.save(client.home)
    return history[-1], old


def probe(client: Client, name: str) -> None:
    """Send a small image to a version. Raises Refused unless it answers 200."""
    path, image = model_path(name, "/predictions"), probe_image()
    client.json("inference", "POST", path, data=image, timeout=ANSWER_TIMEOUT)


def drain(client: Client, name: str, timeout: float = 120) -> None:
    """Wait until a version has answered everything: unregistering it kills its workers.

    TorchServe reports how many requests are queued, but not how many are being answered. The queue is first in,
    first out, so once it is empty and a probe has come back, one worker is idle. With several workers, their
    processor time must stand still as well. Raises ServeError after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        version = find_version(client, name)
        if version is None:
            return
        if version.pending == 0:
            pids = [int(worker["pid"]) for worker in version.workers if worker["status"] == "READY"]
            if not pids:
                return  # no worker is left to answer anything
            # a worker that dies is idle, too
            with ThreadPoolExecutor(len(pids)) as pool, contextlib.suppress(Refused):
                list(pool.map(lambda _: probe(client, name), pids))
            before = processor_seconds(pids)
            time.sleep(0.5)
            if len(pids) == 1 or processor_seconds(pids) - before < 0.05:
                return
        if time.monotonic() > deadline:
            raise ServeError(
                f"the default has changed, but version {name} still gets requests after {timeout:.0f} s and stays "
                f"registered: run `unregister {name}` once it is idle"
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


def probe_image(side: int = 64) -> bytes:
    """A gray square as PNG."""
    from PIL import Image

    png = io.BytesIO()
    Image.new("RGB", (side, side), (128, 128, 128)).save(png, "PNG")
    return png.getvalue()
