"""The server's processes: a frontend and the workers that it starts. They share one session."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from serve_config.errors import ServeError
from serve_config.server.java import find_java
from serve_config.server.properties import torchserve_home
from serve_config.server.state import Home, State

ENTRY = "org.pytorch.serve.ModelServer"
LOGGING = Path(__file__).parents[1] / "templates" / "log4j2.xml"
ROOT = Path(__file__).parents[2]

# Variables that would change TorchServe's configuration or what a worker imports: a PYTHONPATH with this
# repository in it would put its `handler` and `finetune` before the archive's own copies.
UNWANTED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LOG_LOCATION", "METRICS_LOCATION")
UNWANTED_PREFIXES = ("TS_", "SERVE_")


def environment() -> dict[str, str]:
    """The environment for the server and its workers.

    A thread of OpenMP that has nothing to do sleeps: by default it spins and takes a core from the other workers.
    """
    return {"OMP_WAIT_POLICY": "passive"} | {
        name: value
        for name, value in os.environ.items()
        if name not in UNWANTED and not name.startswith(UNWANTED_PREFIXES)
    }


def litserve_command(home: Home, store: Path) -> list[str]:
    """The command that starts LitServe behind our frontend. Raises ServeError if LitServe is not installed."""
    if importlib.util.find_spec("litserve") is None:
        raise ServeError(
            "LitServe is not installed in this Python: run `.venv/bin/python -m pip install 'litserve<0.3' "
            "prometheus-client`, or start without --engine litserve"
        )
    return [sys.executable, "-m", "serve_config.litserve", str(home.config), str(store)]


def torchserve_command(home: Home, store: Path) -> list[str]:
    """What ``torchserve --start`` would run; that program allows one TorchServe per machine (a pid file in /tmp).

    Raises ServeError without Java or TorchServe.
    """
    torchserve = torchserve_home()
    if torchserve is None:
        raise ServeError(
            "TorchServe is not installed in this Python: run `make install`, and use .venv/bin/python"
        )
    return [
        str(find_java().program),
        "-Xmx2g",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",  # they would be written to /tmp
        f"-Djava.io.tmpdir={home.tmp}",
        f"-Dmodel_server_home={torchserve}",
        f"-Dlog4j2.configurationFile={LOGGING.as_uri()}",
        "-cp",
        f"{torchserve}/ts/frontend/*",
        ENTRY,
        "--python",
        sys.executable,
        "-f",
        str(home.config),
        "-s",
        str(store),
        "-ncs",  # no snapshots: state.json says what to restore
    ]


_launched: dict[int, subprocess.Popen[bytes]] = {}  # our own children, so that `end` can reap them


def launch(engine: str, home: Home, store: Path) -> psutil.Process:
    """Start the server in a session of its own, in the state folder, where it writes its keys and logs.

    Raises ServeError if something that it needs is not installed.
    """
    if engine == "litserve":
        command = litserve_command(home, store)
        own = {"PYTHONPATH": str(ROOT), "TMPDIR": str(home.tmp)}
    else:
        command, own = torchserve_command(home, store), {}
    with open(home.logs / "console.log", "wb") as console:
        child = subprocess.Popen(
            command,
            cwd=home.path,
            env=environment() | own,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,  # the server creates the key file: for this user only
        )
    _launched[child.pid] = child
    return psutil.Process(child.pid)


@contextlib.contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until the block is over, then raise KeyboardInterrupt.

    A ``Popen`` that is interrupted loses the process it has just started, and nobody could end it.
    """
    received: list[int] = []
    former = {
        number: signal.signal(number, lambda number, _frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def running(state: State) -> psutil.Process | None:
    """The frontend recorded in ``state`` if it is alive; another process that reuses its number does not count."""
    if not state.pid:
        return None
    try:
        process = psutil.Process(state.pid)
        # a second of tolerance: on Linux the creation time moves with the system clock
        same = abs(process.create_time() - state.created) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def members(state: State) -> list[psutil.Process]:
    """Every living process of TorchServe's session, including workers whose frontend has died."""
    if not state.pid:
        return []
    with contextlib.suppress(psutil.Error):
        frontend = psutil.Process(state.pid)
        if running(state) is None and frontend.status() != psutil.STATUS_ZOMBIE:
            return []  # the number now names another process, so our session is over
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            # a worker is younger than its frontend: what is older belongs to another session of this number
            ours = os.getsid(process.pid) == state.pid and process.create_time() > state.created - 1
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end(state: State, patience: float = 8.0) -> None:
    """End the frontend, which ends its workers; then end whatever is left of the session.

    The frontend has ``patience`` seconds to shut down in order (it takes 2 to 3); then it is killed.
    """
    if frontend := running(state):
        with contextlib.suppress(psutil.Error):
            frontend.terminate()
            frontend.wait(patience)
    for sign, wait in ((signal.SIGTERM, 2), (signal.SIGKILL, 5), (signal.SIGKILL, 5)):  # the last for forks
        left = members(state)
        if not left:
            break
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(sign)
        psutil.wait_procs(left, timeout=wait)
    if child := _launched.pop(state.pid, None):
        child.poll()  # leave no zombie
