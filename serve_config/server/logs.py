"""Read TorchServe's logs for the one line that says why something failed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from serve_config.server.state import MODEL

# 2026-01-31T12:00:00,123 [INFO ] W-9000-maskrcnn_vovnet19_fpn-stdout MODEL_LOG - message
LINE = re.compile(
    r"^(?P<time>\S+) \[(?P<level>\w+) *\] (?P<thread>.+?) (?P<logger>[\w.$]+) - (?P<message>.*)$"
)
WORKER = re.compile(rf"^W-\d+-{MODEL}_(?P<version>.+?)(?:-std(?:out|err))?$")
# the last line of a traceback: "ValueError: the weights …"
RAISED = re.compile(r"^[A-Za-z_][\w.]*(?:: .*)?$")

# What TorchServe's worker raises in place of, or because of, the error before it.
AFTERMATH = re.compile(r"RuntimeError: \d{3} - |ModuleNotFoundError: No module named 'ts\.torch_handler\.")

# What TorchServe says of a worker that ended before it was READY; then it starts it again, for minutes.
LOAD_FAILED = re.compile(r"Load model failed: |Retry worker: ")

TAIL_BYTES = 400_000


@dataclass(frozen=True)
class LogError:
    """One error; ``version`` is None where it concerns the whole server."""

    time: str
    version: str | None
    message: str


def log_size(path: Path) -> int:
    """In bytes; 0 if there is no log yet."""
    return path.stat().st_size if path.exists() else 0


def read_tail(path: Path, since: int = 0) -> list[str]:
    """The lines after byte ``since`` (from the beginning if the log was rotated meanwhile), at most the last
    400 kB.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(since if since <= size else 0, size - TAIL_BYTES)
            file.seek(start)
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def worker_errors(lines: list[str]) -> list[LogError]:
    """What ended each traceback in model_log.log, without the errors that only follow from the one before."""
    errors: list[LogError] = []
    inside: set[str] = set()  # threads in the middle of a traceback
    for line in lines:
        found = LINE.match(line)
        worker = WORKER.match(found["thread"]) if found else None
        if not found or not worker:
            continue
        thread, message = found["thread"], found["message"].removeprefix("INFO > ")
        if message.startswith("Traceback (most recent call last)"):
            inside.add(thread)
        elif thread in inside and RAISED.match(message):
            inside.remove(thread)
            if not AFTERMATH.match(message):
                errors.append(LogError(found["time"], worker["version"], message))
    return errors


def server_errors(lines: list[str]) -> list[LogError]:
    """The lines of level ERROR in ts_log.log; of one without a message, the Java exception in the line after."""
    errors = []
    for line, after in zip_longest(lines, lines[1:], fillvalue=""):
        found = LINE.match(line)
        if found and found["level"] in ("ERROR", "FATAL"):
            worker = WORKER.match(found["thread"])
            message = found["message"] or after
            errors.append(LogError(found["time"], worker["version"] if worker else None, message))
    return errors


def last_worker_error(logs: Path, version: str, since: int = 0) -> str | None:
    """The last thing that a worker of ``version`` raised, in one line, or None."""
    errors = [
        error for error in worker_errors(read_tail(logs / "model_log.log", since)) if error.version == version
    ]
    return errors[-1].message if errors else None


def load_failed(logs: Path, version: str, since: int = 0) -> bool:
    """Whether ts_log.log tells that a worker of ``version`` could not load its model."""
    for line in read_tail(logs / "ts_log.log", since):
        found = LINE.match(line)
        worker = WORKER.match(found["thread"]) if found else None
        if found and worker and worker["version"] == version and LOAD_FAILED.match(found["message"]):
            return True
    return False
