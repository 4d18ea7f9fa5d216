"""Predict photos on this machine, one after the other.

The archive's own code runs in a process whose ``sys.path`` begins with the unpacked archive. A photo that kills this
process, or takes too long, gets an error, and the next photo a new process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.errors import PredictError
from handler.predict import worker
from handler.predict.job import DIED, Answer, Answers, Job


def answers(
    job: Job, options: Mapping[str, str], photos: Sequence[str], overlays: Mapping[str, str]
) -> Answers:
    """Each photo with its answer and the time of the answer, in order.

    Args:
        overlays: where to write the overlay of a photo; empty for none.

    Raises:
        PredictError: the predictor cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="maskrcnn-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / "archive"
        with zipfile.ZipFile(job.archive) as file:
            file.extractall(folder)
        size = job.batch_size or 1
        with contextlib.closing(PredictorProcess(folder, options, job)) as process:
            for start in range(0, len(photos), size):
                yield from process.answer(photos[start : start + size], overlays)


def overlay_paths(folder: Path, photos: Sequence[str]) -> dict[str, str]:
    """``folder/NAME.png`` for each photo of a job; where photos share a name, a hash of the path is added."""
    folder.mkdir(parents=True, exist_ok=True)
    stems = {photo: Path(photo).stem for photo in photos}
    shared = Counter(stems.values())
    return {
        photo: str(folder.resolve() / (f"{stem}-{_hash(photo)}.png" if shared[stem] > 1 else f"{stem}.png"))
        for photo, stem in stems.items()
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class PredictorProcess:
    """A process with the archive's predictor, started when it is needed.

    It reads one JSON line per batch and answers each with one; :func:`handler.predict.worker.main` is the other end.
    """

    def __init__(self, folder: Path, options: Mapping[str, str], job: Job) -> None:
        self._setup = {"folder": str(folder), "options": dict(options), "threads": job.threads}
        self._setup["patience"] = job.stall_timeout
        self._log = folder.with_name("worker.log")
        self._process: subprocess.Popen[str] | None = None

    def answer(self, photos: Sequence[str], overlays: Mapping[str, str]) -> list[Answer]:
        """The answers to one batch. Photos of a batch that kills the process are tried one by one."""
        request = {"photos": list(photos), "overlays": [overlays.get(photo) for photo in photos]}
        process = self._process or self._start()
        if (bodies := _exchange(process, request)) is not None:
            now = time.time()
            return [(photo, json.loads(body), now) for photo, body in zip(photos, bodies, strict=True)]
        self.close()
        if len(photos) == 1:
            return [(photos[0], DIED, time.time())]
        return [answer for photo in photos for answer in self.answer([photo], overlays)]

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        # -I: neither this folder nor PYTHONPATH may put another `handler` before the archive's
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", os.path.abspath(worker.__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
        reply = _exchange(self._process, self._setup)
        if reply != "ready":
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            self.close()
            reason = reply or (lines[-1].strip() if lines else "it crashed")
            raise PredictError(f"the predictor could not be started: {reason[:300]}")
        return self._process


def _exchange(process: subprocess.Popen[str], message: dict[str, Any]) -> Any:
    """Send one line and read one; None if the process died."""
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    return json.loads(line) if line.endswith("\n") else None
