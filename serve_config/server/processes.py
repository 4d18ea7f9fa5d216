"""TorchServe's processes: the Java frontend and the workers that it starts, which share one session."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from serve_config.server.properties import torchserve_home
from serve_config.server.state import Home, State, boot_id

ENTRY = "org.pytorch.serve.ModelServer"
LOGGING = Path(__file__).parents[1] / "templates" / "log4j2.xml"

# What would change TorchServe's configuration, or what a worker imports. A PYTHONPATH that names the
# repository would put its `handler` and `finetune` before the archive's own copies.
UNWANTED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LOG_LOCATION", "METRICS_LOCATION")
UNWANTED_PREFIXES = ("TS_", "SERVE_")


def environment() -> dict[str, str]:
    """The environment for TorchServe and its workers."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in UNWANTED and not name.startswith(UNWANTED_PREFIXES)
    }


def command(java: Path, home: Home, store: Path) -> list[str]:
    """What ``torchserve --start`` would run. That program knows only one TorchServe per machine (one pid file
    in /tmp).
    """
    torchserve = torchserve_home()
    return [
        str(java),
        "-Xmx2g",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",  # it would lie in /tmp
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
        "-ncs",  # no snapshots: state.json remembers what was registered
    ]


def launch(java: Path, home: Home, store: Path) -> subprocess.Popen[bytes]:
    """Start TorchServe in a session of its own, in the state folder (where it writes its keys and logs)."""
    with open(home.logs / "console.log", "wb") as console:
        return subprocess.Popen(
            command(java, home, store),
            cwd=home.path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,  # the key file is born private
        )


def running(state: State) -> psutil.Process | None:
    """The TorchServe that ``state`` tells of, if it still lives; a process that only has its number does not
    count.
    """
    if not state.pid or state.boot != boot_id():
        return None
    try:
        process = psutil.Process(state.pid)
        same = seconds_at_start(state.pid) == state.created and process.status() != psutil.STATUS_ZOMBIE
        return process if same else None
    except (psutil.NoSuchProcess, OSError):
        return None


def seconds_at_start(pid: int) -> float:
    """When a process started, in seconds after boot; unlike a date it stays what it is when the clock is set.

    Raises OSError if there is no such process.
    """
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # from field 3 of proc(5)
    return int(after_name[22 - 3]) / os.sysconf("SC_CLK_TCK")


def members(state: State) -> list[psutil.Process]:
    """Every living process of TorchServe's session: also the workers that a dead frontend left behind."""
    if not state.pid or state.boot != boot_id():
        return []
    if running(state) is None and psutil.pid_exists(state.pid) and not _is_zombie(state.pid):
        return []  # the number was given to a stranger, which cannot happen while our session lives
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == state.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def end(state: State, patience: float = 8.0) -> None:
    """End the frontend, which ends its workers, then whatever is left of the session.

    The frontend has ``patience`` seconds to do it in good order (it takes 2 to 3); the rest is killed.
    """
    frontend = running(state)
    if frontend:
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
    _reap(state.pid)


def _reap(pid: int) -> None:
    """Take the exit status if the frontend was our own child, so that no zombie is left."""
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)
