"""Start TorchServe, or LitServe in its place, and wait until it serves; stop it and leave nothing behind."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import replace
from pathlib import Path

import psutil

from serve_config.errors import ServeError
from serve_config.models.archives import Archive, find_archive, read_archive
from serve_config.models.client import Client
from serve_config.models.management import Say, register, remember, set_default
from serve_config.server import processes
from serve_config.server.logs import SERVER_LOG, read_tail, server_errors
from serve_config.server.processes import delayed_interrupts
from serve_config.server.properties import Settings, choose_ports, render
from serve_config.server.state import Home, State, write_atomically

FRONTEND_TIMEOUT = 90.0  # seconds until the frontend must answer; it takes 2 to 4


def start(home: Home, settings: Settings, store: Path, models: list[str] | None, say: Say) -> list[str]:
    """Start the server, register archives, and wait until each is READY. Returns the registered versions.

    ``models`` are archives or versions, the first the default; all of them must start. An empty list registers
    nothing. None restores what was registered before the last stop, or on the first start registers the whole
    store; versions that fail are skipped with a warning by ``say``. Raises ServeError, with everything ended.
    """
    with home.lock():
        state = State.load(home)
        if process := processes.running(state):
            raise ServeError(
                f"{state.server} is running (process {process.pid}, http://127.0.0.1:{state.ports['inference']}): "
                "use it, or `stop` it first"
            )
        processes.end(state)  # workers of a frontend that has died
        try:
            store = store.resolve()
            store.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServeError(f"the model store {store} cannot be made ({error.strerror})") from error
        former, restore, default = replace(state), models is None, None
        if models is None:
            archives, default = _to_restore(state, store, say), state.default
        else:
            archives, state.history = _read_all(models, store), []
        state.workers, state.engine = settings.workers, settings.engine
        client = _launch(home, state, settings, store)
        try:
            return _register_all(client, archives, default, restore, say)
        except BaseException:  # Ctrl-C included: leave no half-started server
            with delayed_interrupts():
                processes.end(State.load(home), patience=2)
                _clean(home)
                former.save(home)  # what can still be restored
            raise


def _read_all(models: list[str], store: Path) -> list[Archive]:
    archives = [read_archive(find_archive(name, store)) for name in models]
    names = [archive.version for archive in archives]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ServeError(
            f"two of the archives are version {twice}: give each its own with `export --version`"
        )
    return archives


def _to_restore(state: State, store: Path, say: Say) -> list[Archive]:
    """The archives of the last run, its default first; with none, the whole store."""
    archives = []
    default_first = sorted(state.models.items(), key=lambda item: item[0] != state.default)
    for name in [name for _, name in default_first] or sorted(path.name for path in store.glob("*.mar")):
        try:
            archives.append(read_archive(store / name))
        except ServeError as error:
            say(f"warning: {error}")
    return archives


def _launch(home: Home, state: State, settings: Settings, store: Path) -> Client:
    """Start the frontend, record it in ``state``, and wait until it answers. Raises ServeError, with it ended."""
    for attempts_left in (2, 1, 0):
        ports = choose_ports(settings.ports)
        write_atomically(home.config, render(settings, ports, store))
        _clean(home)
        home.tmp.mkdir(mode=0o700)
        try:
            with delayed_interrupts():
                process = processes.launch(settings.engine, home, store)
                state.pid, state.created, state.store = process.pid, process.create_time(), str(store)
                with_grpc = settings.engine == "torchserve"
                state.ports = {name: port for name, port in ports.items() if with_grpc or "grpc" not in name}
                state.save(home)
            client = Client(home, state.ports)
            _wait_answering(client, process, state.server)
            return client
        except BaseException as error:
            with delayed_interrupts():
                processes.end(state, patience=2)
                _clean(home)
            if not (attempts_left and isinstance(error, ServeError) and _lost_a_port(settings.ports, ports)):
                raise
    raise AssertionError("not reached")


def _lost_a_port(wanted: dict[str, int], ports: dict[str, int]) -> bool:
    """Whether another program has taken a free port between its choice and the server's start."""
    try:
        choose_ports({name: port for name, port in ports.items() if not wanted[name]})
    except ServeError:
        return True
    return False


def _wait_answering(client: Client, process: psutil.Process, server: str) -> None:
    deadline = time.monotonic() + FRONTEND_TIMEOUT
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise ServeError(f"{server} ended while it started: {why_it_ended(client.home)}")
        with contextlib.suppress(ServeError):  # not yet
            if client.request("inference", "GET", "/ping", timeout=5).ok:
                client.json("management", "GET", "/models", timeout=5)
                return
        time.sleep(0.2)
    why = why_it_ended(client.home)
    raise ServeError(f"{server} does not answer {FRONTEND_TIMEOUT:.0f} s after its start: {why}")


def why_it_ended(home: Home) -> str:
    """The line of the logs that best explains why the server has ended."""
    console = [line.strip() for line in read_tail(home.logs / "console.log") if line.strip()]
    signs = ("Exception", "rror:", "Invalid", "Address")
    telling = [line for line in console if any(sign in line for sign in signs)]
    if telling:
        return telling[-1]
    if errors := server_errors(read_tail(home.logs / SERVER_LOG)):
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
    elif default is not None:
        serving = f"{done[0]} is the default now" if done else "nothing is served"
        say(f"warning: the former default {default} could not be restored; {serving}")
    remember(client)
    return done


def wait_until_stopped(home: Home) -> None:
    """Return once `stop` has stopped the server. Raises ServeError if it ended by itself."""
    state = State.load(home)
    while processes.running(state):
        time.sleep(0.5)
    if State.load(home).pid != 0:
        raise ServeError(f"{state.server} ended by itself: {why_it_ended(home)}")


def stop(home: Home) -> bool:
    """End the server and its workers. False if none ran. Raises ServeError if a process cannot be ended."""
    with home.lock():
        state = State.load(home)
        was_running = bool(processes.members(state))
        processes.end(state)
        if left := processes.members(state):
            raise ServeError(
                f"process {left[0].pid} of {state.server} cannot be ended: run this as the user who started it"
            )
        state.pid, state.created, state.ports = 0, 0.0, {}
        state.save(home)
        _clean(home)
        return was_running


def _clean(home: Home) -> None:
    """Remove the keys, unpacked archives and sockets, which are useless without the process."""
    home.key_file.unlink(missing_ok=True)
    shutil.rmtree(home.tmp, ignore_errors=True)
