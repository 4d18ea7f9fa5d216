"""The answers of a job on disk. What is in the store is done: a job that is run again skips it."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec

from handler.errors import PredictError

FLUSH_SECONDS = 60
KEPT = ("image", "instances", "mask_fraction", "error")
"""What is kept of the server's JSON: all but the model, which a job has only one of, and the times."""


class Store:
    """A folder ``answers/`` of files with a line of JSON per photo, each written whole or not at all.

    Args:
        output: the job's folder, a path or an fsspec URI; the store is inside it.
        job: describes the answers; a store of another job is refused.
        size: photos per file; a file is also written after a minute.

    Raises:
        PredictError: the folder holds something else, or the answers of another job.
    """

    def __init__(self, output: str, job: Mapping[str, Any], size: int) -> None:
        self.output, self.size = output, size
        self._lines: list[str] = []
        self._flushed = time.monotonic()
        with usable(output):
            self.fs, root = fsspec.core.url_to_fs(output)
            self.root = f"{root}/answers"
            about = f"{self.root}/job.json"
            if self.fs.exists(about):
                self._check_same(json.loads(self.fs.cat_file(about)), job)
            elif self.fs.exists(root) and self.fs.ls(root, detail=False):
                raise PredictError(
                    f"--output {output} holds something else: choose an empty folder, or a new one"
                )
            else:
                self.fs.makedirs(self.root, exist_ok=True)
                self._write("job.json", json.dumps(job, indent=2))

    def _check_same(self, begun: Mapping[str, Any], job: Mapping[str, Any]) -> None:
        if changed := sorted(key for key in {*job, *begun} if job.get(key) != begun.get(key)):
            raise PredictError(
                f"--output {self.output} holds the answers of another job (other {', '.join(changed)}): choose "
                "another folder, or remove it"
            )

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep a second job out of a local folder: both would predict every photo. Object stores have no locks."""
        if "file" not in self.fs.protocol:
            yield
            return
        import fcntl

        folder = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise PredictError(
                f"another job is writing to {self.output}: wait for it, or choose another folder"
            ) from None
        finally:
            os.close(folder)

    def done(self) -> set[str]:
        """The photos whose answers are written."""
        return {photo for photo, _ in self.photos()}

    def photos(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The photos whose answers are written, each with :data:`KEPT` of its answer, in the order of writing."""
        for name in sorted(name for name in self.fs.ls(self.root, detail=False) if name.endswith(".jsonl")):
            with self.fs.open(name, "r", encoding="utf-8") as file:
                for line in file:
                    answer = json.loads(line)
                    yield answer.pop("photo"), answer

    def add(self, photo: str, answer: Mapping[str, Any]) -> None:
        """Keep one photo's answer; write when there are enough, or when a minute has passed."""
        kept = {"photo": photo, **{key: answer[key] for key in KEPT if key in answer}}
        self._lines.append(json.dumps(kept, separators=(",", ":")) + "\n")
        if len(self._lines) >= self.size or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        if self._lines:
            with usable(self.output):
                self._write(f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl", "".join(self._lines))
        self._lines, self._flushed = [], time.monotonic()

    def _write(self, name: str, text: str) -> None:
        temporary = f"{self.root}/.{name}.tmp"
        self.fs.pipe_file(temporary, text.encode())
        self.fs.mv(temporary, f"{self.root}/{name}")


@contextlib.contextmanager
def usable(output: str) -> Iterator[None]:
    """Turn what a file system raises into one sentence."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:  # ImportError: a kind of URI that needs a package
        reason = getattr(error, "strerror", None) or error
        raise PredictError(
            f"--output {output} cannot be used ({reason}): fix that; the same command continues from what is written"
        ) from error
