"""What runs beside an archive's own code: in a local process (:func:`main`) or in a Ray actor (:class:`PhotoWorker`).

This module comes from the source tree, by path or by value; ``handler`` is imported from the unpacked archive, which
is put first on ``sys.path``. As under TorchServe, an archive brings its code along, and a node needs only the pip
packages. So this module imports nothing of ours at its top.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

READ_ATTEMPTS = 3


class PhotoService:
    """Answers photos as TorchServe would: the same service, called without HTTP.

    Args:
        folder: the unpacked archive.
        options: a request's options, as a form would send them.
        device: ``cpu`` or ``cuda``; default: the GPU if there is one.
        threads: cores to use; default: all.
    """

    def __init__(
        self, folder: str, options: Mapping[str, str], device: str | None = None, threads: int | None = None
    ) -> None:
        from pathlib import Path

        sys.path.insert(0, folder)
        from handler.service import Service

        self.service = Service.load(Path(folder), device=device, threads=threads)
        self.options = {**options, "output": "json"}

    def answer(self, photos: Sequence[str], overlays: Sequence[str | None] = ()) -> list[bytes]:
        """The server's JSON for each photo, prediction or error.

        Args:
            photos: paths or fsspec URIs, run as one batch.
            overlays: where to write each photo with its masks painted on; empty for none.
        """
        decoded = [self._decode(photo) for photo in photos]
        found = self.service.predict(decoded)
        if self.service.broken:  # a new process tries these photos again
            os._exit(1)
        answers = [self.service.encode(*pair) for pair in zip(decoded, found, strict=True)]
        for i, target in enumerate(overlays):
            if target and answers[i].status == 200:
                self._write_overlay(decoded[i], found[i], target)
        return [answer.body for answer in answers]

    def _decode(self, photo: str) -> Any:
        from handler.service import Answer, Request

        try:
            data = _read(photo, self.service.settings.max_image_bytes + 1)
        except Exception as error:  # whatever a file system raises concerns this photo alone
            return Answer(404, "application/json", _unreadable(error), "refused", "unreadable_file")
        return self.service.decode(Request({"image": data, **self.options}, id=photo))

    def _write_overlay(self, photo: Any, found: Any, target: str) -> None:
        from dataclasses import replace

        from handler.api.responses import encode

        options = replace(photo.options, output="overlay")
        content = encode(photo.pixels, found, options, self.service.predictor.card, {})
        with open(target, "wb") as file:
            file.write(content.body)


def _read(photo: str, limit: int) -> bytes:
    """At most ``limit`` bytes of the file; a store that fails for a moment is asked again."""
    import fsspec

    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            with fsspec.open(photo, "rb") as file:
                return bytes(file.read(limit))
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except OSError:
            if attempt == READ_ATTEMPTS:
                raise
            time.sleep(2**attempt)
    raise AssertionError


def _unreadable(error: Exception) -> bytes:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    message = f"The file could not be read: {reason}."
    return json.dumps({"error": {"code": "unreadable_file", "message": message, "field": "image"}}).encode()


class PhotoWorker:
    """A Ray actor with one predictor.

    Args:
        archive: a one-element list with the Ray reference of the archive's bytes.
        sha256: of the archive; names the folder that all actors of a node share.
        options, threads, device: as in :class:`PhotoService`.
        batch_size: photos to run at once.
        patience: seconds without an answer after which the process ends itself; Ray would wait forever.
        cache: where to unpack; default: the temporary folder, where it stays for the next job.
    """

    def __init__(
        self,
        archive: list[Any],
        sha256: str,
        options: Mapping[str, str],
        threads: int,
        batch_size: int,
        device: str,
        patience: float,
        cache: str | None = None,
    ) -> None:
        import ray

        folder = _unpack_once(ray.get(archive[0]), sha256, cache)
        self.service = PhotoService(str(folder), options, device, threads)
        self.batch_size = batch_size
        self.patience = patience

    def __call__(self, table: Any) -> Any:
        """A table with the column ``photo`` → ``photo``, ``body`` (the server's JSON), ``answered`` (Unix seconds)."""
        import pyarrow

        photos = table.column("photo").to_pylist()
        groups = [photos[i : i + self.batch_size] for i in range(0, len(photos), self.batch_size)]
        bodies: list[bytes] = []
        moments: list[float] = []
        # two at a time: one is read and decoded while the other is in the network
        with ThreadPoolExecutor(2) as pool:
            try:
                self._watch()
                for answered in pool.map(self.service.answer, groups):
                    bodies += answered
                    moments += [time.time()] * len(answered)
                    self._watch()
            finally:  # an idle actor has no deadline
                faulthandler.cancel_dump_traceback_later()
        return pyarrow.table({"photo": photos, "body": bodies, "answered": moments})

    def _watch(self) -> None:
        """Restart the deadline. faulthandler's watchdog is C, so it also ends code that never releases the GIL."""
        standard_error = 2  # whatever Ray has made of sys.stderr
        faulthandler.dump_traceback_later(self.patience, exit=True, file=standard_error)


def _unpack_once(data: Any, sha256: str, cache: str | None) -> Any:
    """The folder of the unpacked archive, private to this user; the first actor of a node makes it."""
    import fcntl
    import io
    import tempfile
    import zipfile
    from pathlib import Path

    base = Path(cache or tempfile.gettempdir()) / f"maskrcnn-predict-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{base} belongs to another user or is open to others: remove it")
    folder = base / sha256
    with open(base / f"{sha256}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            temporary = tempfile.mkdtemp(dir=base)
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                file.extractall(temporary)
            os.rename(temporary, folder)
    return folder


def main() -> None:
    """The local process: one JSON line in, one out. The first line sets it up, the others are batches.

    A batch that takes longer than ``patience`` seconds ends the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then ends this process
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log

    def reply(message: object) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    setup = json.loads(sys.stdin.readline())
    patience = setup.pop("patience")
    try:
        service = PhotoService(**setup)
    except Exception as error:
        reply(str(error) or type(error).__name__)
        raise
    reply("ready")
    for line in sys.stdin:
        faulthandler.dump_traceback_later(patience, exit=True)
        bodies = service.answer(**json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        reply([body.decode() for body in bodies])


if __name__ == "__main__":
    main()
