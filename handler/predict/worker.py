"""The predictor of an archive in a process of its own: the process, and the code that runs in it.

The process gets this module as text and imports ``handler`` from the unpacked archive, so an archive brings its code
along as it does under TorchServe. On Ray, :class:`PredictorProcess` is an actor, pickled by value, and a node needs
only the pip packages. So this module imports nothing of ours at its top.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

AHEAD = 2  # batches on their way: one is read and decoded while the other is in the network
Answer = tuple[str, dict[str, Any]]
"""Photo, and its answer: the server's JSON."""


class PredictorProcess:
    """The process, started when it is needed. A photo that kills it gets an error, the next one a new process.

    Args:
        archive: a path, or the file's bytes.
        source: the text of this module.
        options: a request's options, as a form would send them.
        threads: cores to use; None for all.
        batch_size: photos per run of the network.
        patience: seconds without an answer after which the process counts as stuck.
        device: ``cpu`` or ``cuda``; default: the GPU if there is one.
        folder: where to unpack; default: the temporary folder.
    """

    def __init__(
        self,
        archive: str | bytes,
        source: str,
        options: Mapping[str, str],
        *,
        threads: int | None,
        batch_size: int,
        patience: float,
        device: str | None = None,
        folder: str | None = None,
    ) -> None:
        self._archive, self._source, self._folder = archive, source, folder
        self._setup = {"options": dict(options), "threads": threads, "device": device}
        self.batch_size, self.patience = batch_size, patience
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._running: tuple[subprocess.Popen[bytes], Connection] | None = None

    def answer(self, photos: Sequence[str]) -> list[Answer]:
        """All of :meth:`answers`, for a caller on another machine."""
        return list(self.answers(photos))

    def answers(self, photos: Sequence[str]) -> Iterator[Answer]:
        """The answers to photos, each a path or an fsspec URI, in their order.

        Raises:
            RuntimeError: the predictor cannot be loaded.
        """
        size = self.batch_size
        return self._run([photos[i : i + size] for i in range(0, len(photos), size)], AHEAD)

    def close(self) -> None:
        """End the process and remove its files."""
        self._kill()
        if self._temporary:
            self._temporary.cleanup()
            self._temporary = None

    def _run(self, batches: Sequence[Sequence[str]], ahead: int) -> Iterator[Answer]:
        waiting, sent = deque(batches), deque[Sequence[str]]()
        while waiting or sent:
            pipe = self._running[1] if self._running else self._start()
            while waiting and len(sent) < ahead:
                sent.append(waiting.popleft())
                with contextlib.suppress(OSError):  # it died: that shows when its answer does not come
                    pipe.send(list(sent[-1]))
            if (bodies := self._receive(pipe)) is not None:
                for photo, body in zip(sent.popleft(), bodies, strict=True):
                    yield photo, json.loads(body)
                continue
            suspects = [photo for batch in sent for photo in batch]
            sent.clear()
            if len(suspects) == 1:
                yield suspects[0], died()
            else:
                yield from self._run([[photo] for photo in suspects], ahead=1)

    def _start(self) -> Connection:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(
                prefix="maskrcnn-", dir=self._folder, ignore_cleanup_errors=True
            )
            data = io.BytesIO(self._archive) if isinstance(self._archive, bytes) else self._archive
            with zipfile.ZipFile(data) as file:
                file.extractall(f"{self._temporary.name}/archive")
            self._archive = b""  # on Ray, each actor has a copy of it in memory
        log_path = f"{self._temporary.name}/log"
        pipe, theirs = Pipe()
        with open(log_path, "wb") as log, theirs:
            # -I: neither this folder nor PYTHONPATH may put another `handler` before the archive's
            command = [sys.executable, "-I", "-c", self._source, str(theirs.fileno())]
            process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[theirs.fileno()])
        self._running, reply = (process, pipe), None
        with contextlib.suppress(EOFError, OSError):
            pipe.send({**self._setup, "folder": f"{self._temporary.name}/archive"})
            reply = pipe.recv()
        if reply != "ready":
            self._kill()
            with open(log_path, encoding="utf-8", errors="replace") as log_file:
                lines = log_file.read().strip().splitlines() or ["it crashed"]
            raise RuntimeError(f"the predictor could not be started: {(reply or lines[-1].strip())[:300]}")
        return pipe

    def _receive(self, pipe: Connection) -> list[bytes] | None:
        """The answers to the oldest batch; None if the process died or is stuck."""
        with contextlib.suppress(EOFError, OSError):
            if pipe.poll(self.patience):
                return pipe.recv()
        self._kill()
        return None

    def _kill(self) -> None:
        if self._running:
            process, pipe = self._running
            process.kill()
            process.wait()
            pipe.close()
        self._running = None


def died() -> dict[str, Any]:
    """The answer to a photo that kills its predictor."""
    return _error("worker_died", "The predictor crashed or hung on this image each time it was tried.")


def unreadable(error: Exception) -> dict[str, Any]:
    """The answer to a photo that cannot be read."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _error("unreadable_file", f"The file could not be read: {reason}.")


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "field": "image"}}


def read(photo: str, limit: int = 2**30) -> bytes:
    """At most ``limit`` bytes of a photo."""
    import fsspec

    with fsspec.open(photo, "rb") as file:
        return bytes(file.read(limit))


class PhotoService:
    """Answers photos as TorchServe would: the same service, called without HTTP."""

    def __init__(
        self, folder: str, options: Mapping[str, str], device: str | None, threads: int | None
    ) -> None:
        from pathlib import Path

        sys.path.insert(0, folder)
        from handler.service import Service

        self.service = Service.load(Path(folder), device=device, threads=threads)
        self.options = {**options, "output": "json"}

    def decode(self, photo: str) -> Any:
        """Read and decode one photo, or refuse it."""
        from handler.service import Answer, Request

        try:
            limits = self.service.settings
            data = read(photo, max(limits.max_image_bytes, limits.max_tiled_bytes) + 1)
        except Exception as error:  # whatever a file system raises concerns this photo alone
            body = json.dumps(unreadable(error)).encode()
            return Answer(404, "application/json", body, "refused", "unreadable_file")
        return self.service.decode(Request({"image": data, **self.options}, id=photo))

    def answer(self, decoded: Sequence[Any]) -> list[bytes]:
        """The server's JSON for each photo of a batch, prediction or error."""
        found = self.service.predict(decoded)
        if self.service.broken:  # a new process tries these photos again
            os._exit(1)
        return [self.service.encode(*pair).body for pair in zip(decoded, found, strict=True)]


def main(descriptor: int) -> None:
    """Run in the process: the set-up comes first, then batches of photos until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then ends this process
    pipe = Connection(descriptor)
    try:
        service = PhotoService(**pipe.recv())
    except Exception as error:
        pipe.send(str(error) or type(error).__name__)
        raise
    pipe.send("ready")

    def next_batch() -> list[Any] | None:
        try:
            return [service.decode(photo) for photo in pipe.recv()]
        except EOFError:
            return None

    reader = ThreadPoolExecutor(1)
    try:
        coming = reader.submit(next_batch)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next_batch)
            pipe.send(service.answer(batch))
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the reader may wait for the pipe, and Python for the reader


if __name__ == "__main__":
    main(int(sys.argv[1]))
