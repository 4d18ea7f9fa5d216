"""Find in TorchServe's logs the one line that says why something failed."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from serve_config.server.state import MODEL

SERVER_LOG, WORKER_LOG = "ts_log.log", "model_log.log"

# 2026-01-31T12:00:00,123 [INFO ] W-9000-maskrcnn_vovnet19_fpn-stdout MODEL_LOG - message
LINE = re.compile(r"^(\S+) \[(\w+) *\] (.+?) [\w.$]+ - (?:INFO > )?(.*)$")
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
SILENT_ATTEMPTS = 3  # a worker that ends so often without an error gives no reason
REASON_PATIENCE = 30.0  # seconds to wait for one


@dataclass(frozen=True)
class Record:
    """A line of a log; ``version`` is None where it concerns the whole server."""

    time: str
    level: str
    thread: str
    version: str | None
    message: str


def parse(line: str) -> Record | None:
    """A line's record, or None for one that goes on from the line before."""
    if not (found := LINE.match(line)):
        return None
    instant, level, thread, message = found.groups()
    worker = WORKER.match(thread)
    return Record(instant, level, thread, worker["version"] if worker else None, message)


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


def worker_errors(lines: list[str]) -> list[Record]:
    """The last line of each traceback in model_log.log, without errors that only follow from an earlier one."""
    errors: list[Record] = []
    inside: set[str] = set()  # threads in the middle of a traceback
    for line in lines:
        record = parse(line)
        if not record or not record.version:
            continue
        if record.message.startswith("Traceback (most recent call last)"):
            inside.add(record.thread)
        elif record.thread in inside and RAISED.match(record.message):
            inside.remove(record.thread)
            if not AFTERMATH.match(record.message):
                errors.append(record)
    return errors


def server_errors(lines: list[str]) -> list[Record]:
    """The lines of level ERROR in ts_log.log; an empty one stands for the Java exception on the next line."""
    errors = []
    for line, after in zip_longest(lines, lines[1:], fillvalue=""):
        record = parse(line)
        if record and record.level in ("ERROR", "FATAL"):
            errors.append(replace(record, message=record.message or after))
    return errors


class Attempt:
    """A version's start: what the logs say of it from here on."""

    def __init__(self, logs: Path, version: str) -> None:
        self.logs, self.version = logs, version
        paths = [logs / SERVER_LOG, logs / WORKER_LOG]
        self.begin = {path.name: path.stat().st_size if path.exists() else 0 for path in paths}

    def failed(self) -> bool:
        """Whether a worker could not load its model."""
        return self._count(LOAD_FAILED) > 0

    def reason(self, patience: float = REASON_PATIENCE) -> str | None:
        """Why a worker ended while it loaded, or None if it gave no reason.

        TorchServe may close a worker's output before it has read it, so one silent end proves nothing. It restarts
        the worker as long as the version is registered: read on until an attempt that has ended gives a reason,
        ``SILENT_ATTEMPTS`` have ended without one, or ``patience`` seconds have passed.
        """
        deadline = time.monotonic() + patience
        while True:
            ended = self._count(OUTPUT_ENDED)  # counted before the errors, which are written first
            errors = [
                error.message
                for error in worker_errors(self._lines(WORKER_LOG))
                if error.version == self.version
            ]
            if (errors and ended) or ended >= SILENT_ATTEMPTS or time.monotonic() > deadline:
                return errors[-1] if errors else None
            time.sleep(0.1)

    def _lines(self, log: str) -> list[str]:
        return read_tail(self.logs / log, self.begin[log])

    def _count(self, pattern: re.Pattern[str]) -> int:
        """The lines of ts_log.log about this version whose message matches."""
        records = [parse(line) for line in self._lines(SERVER_LOG)]
        return sum(
            r is not None and r.version == self.version and bool(pattern.match(r.message)) for r in records
        )
