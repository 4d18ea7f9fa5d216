"""Find in TorchServe's logs the one line that says why something failed."""

from __future__ import annotations

import os
import re
import time
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

# What TorchServe's worker raises because of the error before it.
AFTERMATH = re.compile(r"RuntimeError: \d{3} - |ModuleNotFoundError: No module named 'ts\.torch_handler\.")

# TorchServe's record of a worker that ended before it was READY; it restarts the worker for minutes.
LOAD_FAILED = re.compile(r"Load model failed: |Retry worker: ")
# TorchServe's record that it has read a worker's output to its end: what the worker raised is in model_log.log.
OUTPUT_ENDED = re.compile(r"Stopped Scanner - W-.*-stdout$")

TAIL_BYTES = 400_000
SILENT_ATTEMPTS = 3  # a worker that ends so often without a word gives no reason
LAST_WORDS_PATIENCE = 30.0  # seconds


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
    """The lines after byte ``since``, at most the last 400 kB; all of them if the log was rotated meanwhile."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(since if since <= size else 0, size - TAIL_BYTES)
            file.seek(start)
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def worker_errors(lines: list[str]) -> list[LogError]:
    """The last line of each traceback in model_log.log, without errors that only follow from an earlier one."""
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
    """The lines of level ERROR in ts_log.log; an empty one stands for the Java exception on the next line."""
    errors = []
    for line, after in zip_longest(lines, lines[1:], fillvalue=""):
        found = LINE.match(line)
        if found and found["level"] in ("ERROR", "FATAL"):
            worker = WORKER.match(found["thread"])
            message = found["message"] or after
            errors.append(LogError(found["time"], worker["version"] if worker else None, message))
    return errors


def last_worker_error(logs: Path, version: str, since: int = 0) -> str | None:
    """The last error that a worker of ``version`` raised, in one line, or None."""
    errors = [
        error for error in worker_errors(read_tail(logs / "model_log.log", since)) if error.version == version
    ]
    return errors[-1].message if errors else None


def load_failed(logs: Path, version: str, since: int = 0) -> bool:
    """Whether ts_log.log records that a worker of ``version`` could not load its model."""
    return _count(LOAD_FAILED, logs, version, since) > 0


@dataclass(frozen=True)
class Mark:
    """Where the logs ended before something was tried, in bytes."""

    server: int
    workers: int

    @classmethod
    def now(cls, logs: Path) -> Mark:
        return cls(log_size(logs / "ts_log.log"), log_size(logs / "model_log.log"))


def last_words(logs: Path, version: str, mark: Mark, patience: float = LAST_WORDS_PATIENCE) -> str | None:
    """Why a worker of ``version`` ended while it loaded, or None if it gave no reason.

    TorchServe may close a worker's output before it has read it, so one silent end proves nothing. It restarts
    the worker as long as the version is registered: read on until an attempt that has ended gives a reason,
    ``SILENT_ATTEMPTS`` have ended without one, or ``patience`` seconds have passed.
    """
    deadline = time.monotonic() + patience
    while True:
        ended = _count(OUTPUT_ENDED, logs, version, mark.server)  # before the words, which are written first
        why = last_worker_error(logs, version, mark.workers)
        if (why and ended) or ended >= SILENT_ATTEMPTS or time.monotonic() > deadline:
            return why
        time.sleep(0.1)


def _count(pattern: re.Pattern[str], logs: Path, version: str, since: int) -> int:
    """The lines of ts_log.log about a worker of ``version`` whose message matches."""
    count = 0
    for line in read_tail(logs / "ts_log.log", since):
        found = LINE.match(line)
        worker = WORKER.match(found["thread"]) if found else None
        if found and worker and worker["version"] == version and pattern.match(found["message"]):
            count += 1
    return count
