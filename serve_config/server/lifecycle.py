"""Start TorchServe and wait until it serves; stop it and leave nothing behind."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from serve_config.errors import ServeError
from serve_config.models.archives import Archive, find_archive, read_archive
from serve_config.models.client import Client
from serve_config.models.management import Say, register, remember, set_default
from serve_config.server import processes
from serve_config.server.interrupts import interrupts_wait
from serve_config.server.java import find_java
from serve_config.server.logs import read_tail, server_errors
from serve_config.server.properties import Settings, choose_ports, render
from serve_config.server.state import Home, State, boot_id, write_atomically

ANSWER_TIMEOUT = 90.0  # seconds until the frontend must answer; it takes 2 to 4


def start(home: Home, settings: Settings, store: Path, models: list[str] | None, say: Say) -> list[str]:
    """Start TorchServe, register ``models``, and wait until each is READY. Returns the registered versions.

    ``models`` are archives or versions, the first the default. An empty list serves nothing yet. None brings
    back what was registered when it stopped, the first time all of the store: then a version that fails is told
    by ``say`` and left out, so that one bad file does not keep the others from serving; of ``models``, all must
    start or none. Raises ServeError, with everything ended.
    """
    with home.lock():
        state = State.load(home)
        if process := processes.running(state):
            raise ServeError(
                f"TorchServe runs already (process {process.pid}, "
                f"http://127.0.0.1:{state.ports['inference']}): "
                "use it, or `stop` it first"
            )
        processes.end(state)  # workers that a dead frontend left behind
        try:
            store = store.resolve()
            store.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServeError(f"the model store {store} cannot be made ({error.strerror})") from error
        restore = models is None
        former = replace(state)
        archives, missing = _archives(state, store, models)
        for problem in missing:
            say(f"warning: {problem}")
        if not restore:
            state.history = []

        client = _launch(home, state, settings, store)
        try:
            wanted_default = state.default if restore else None
            done = _register_all(client, archives, wanted_default, restore, say)
        except BaseException:  # Ctrl-C included: half a start is none
            with interrupts_wait():
                processes.end(State.load(home), patience=2)
                _clean(home)
                former.save(home)  # what was to be brought back can still be
            raise
        return done


def _archives(state: State, store: Path, models: list[str] | None) -> tuple[list[Archive], list[str]]:
    """The archives to register, and (when restoring) why some cannot be.

    With nothing to restore, as on the first start, that is all of the store.
    """
    if models is not None:
        archives = [read_archive(find_archive(name, store)) for name in models]
        names = [archive.version for archive in archives]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ServeError(
                f"two of the archives are version {twice}: give each its own with `export --version`"
            )
        return archives, []
    archives, missing = [], []
    default_first = sorted(state.models.items(), key=lambda item: item[0] != state.default)
    names = [name for _, name in default_first] or sorted(path.name for path in store.glob("*.mar"))
    for name in names:
        try:
            archives.append(read_archive(store / name))
        except ServeError as error:
            missing.append(str(error))
    return archives, missing


def _launch(home: Home, state: State, settings: Settings, store: Path) -> Client:
    """Start the frontend and wait until it answers; ``state`` is saved with it. Raises ServeError, with it
    ended.
    """
    java, _ = find_java()
    attempts = 3 if 0 in settings.ports.values() else 1  # a free port may be taken before TorchServe opens it
    for attempt in range(1, attempts + 1):
        ports = choose_ports(settings.ports)
        write_atomically(home.config, render(settings, ports, store))
        _clean(home)
        home.tmp.mkdir(mode=0o700)
        process = None
        try:
            with interrupts_wait():
                process = processes.launch(java, home, store)
                state.pid, state.boot = process.pid, boot_id()
                state.created = processes.seconds_at_start(process.pid)
                state.ports, state.store = ports, str(store)
                state.save(home)
            client = Client(home, ports)
            _wait_answering(client, process)
            process.returncode = 0  # it outlives this object, which need not warn about that
            return client
        except BaseException as error:
            with interrupts_wait():
                processes.end(state, patience=2)
                if process:
                    process.poll()
                _clean(home)
            if attempt == attempts or not (isinstance(error, ServeError) and "in use" in str(error)):
                raise
    raise AssertionError("not reached")


def _wait_answering(client: Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while True:
        if process.poll() is not None:
            raise ServeError(f"TorchServe ended while it started: {why_it_ended(client.home)}")
        try:
            if client.request("inference", "GET", "/ping", timeout=5).ok:
                client.json("management", "GET", "/models", timeout=5)
                return
        except ServeError:
            pass  # not yet
        if time.monotonic() > deadline:
            raise ServeError(
                f"TorchServe does not answer {ANSWER_TIMEOUT:.0f} s after its start: "
                f"{why_it_ended(client.home)}"
            )
        time.sleep(0.2)


def why_it_ended(home: Home) -> str:
    """The most telling line of the logs, for a TorchServe that is gone."""
    console = [line.strip() for line in read_tail(home.logs / "console.log") if line.strip()]
    telling = [
        line for line in console if any(word in line for word in ("Exception", "rror:", "Invalid", "Address"))
    ]
    errors = server_errors(read_tail(home.logs / "ts_log.log"))
    if telling:
        return telling[-1]
    if errors:
        return errors[-1].message
    return console[-1] if console else f"its logs in {home.logs} are empty"


def _register_all(
    client: Client, archives: list[Archive], default: str | None, restore: bool, say: Say
) -> list[str]:
    done = []
    for archive in archives:
        say(f"registering {archive.version} …")
        try:
            done.append(register(client, archive, say))
        except ServeError as error:
            if not restore:
                raise
            say(f"warning: {error}")
    if default in done and default is not None:
        set_default(client, default)
    elif default is not None and restore:
        say(
            f"warning: the former default {default} could not be brought back; "
            f"{done[0] if done else 'nothing'} serves"
        )
    remember(client)
    return done


def stop(home: Home) -> bool:
    """End TorchServe and its workers. False if none ran. Raises ServeError if a process cannot be ended."""
    with home.lock():
        state = State.load(home)
        was_running = bool(processes.members(state))
        processes.end(state)
        if left := processes.members(state):
            raise ServeError(
                f"process {left[0].pid} of TorchServe cannot be ended: run this as the user who started it"
            )
        state.pid, state.created, state.boot, state.ports = 0, 0.0, "", {}
        state.save(home)
        _clean(home)
        return was_running


def _clean(home: Home) -> None:
    """Remove what is worthless without the process: its keys, unpacked archives, sockets."""
    home.key_file.unlink(missing_ok=True)
    shutil.rmtree(home.tmp, ignore_errors=True)
