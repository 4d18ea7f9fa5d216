"""A registered version: the unpacked archive, the processes that serve it, and the requests that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from serve_config.litserve import BODIES, WORKERS
from serve_config.server.state import MODEL

LONGEST_PAUSE = 30.0  # seconds before a version that does not load is tried again
LONGEST_LINE = 2**20  # bytes of a log line
server_log = logging.getLogger("ts_log")
model_log = logging.getLogger("MODEL_LOG")


class Problem(Exception):
    """An error in TorchServe's form: HTTP status, the name of its exception, a message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class Answer(NamedTuple):
    """What a worker answered; the names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Version:
    """One version. Its process is started again whenever it ends, until :meth:`close`.

    Its workers get no more requests at once than they can answer, so the others wait here: a worker that dies takes
    only those with it that it was answering.

    Args:
        name: the version.
        archive: the archive's file name in the model store.
        folder: the unpacked archive; it also holds the socket.
        settings: of config.properties, for keys that the archive's model-config.yaml does not have.
        workers: how many, whatever the archive says; 0 leaves it to the archive.
    """

    def __init__(
        self, name: str, archive: str, folder: Path, settings: Mapping[str, str], workers: int
    ) -> None:
        path = folder / "model-config.yaml"
        config = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}
        self.name, self.archive, self.folder = name, archive, folder
        self.workers = int(workers or config.get("minWorkers") or settings["default_workers_per_model"])
        self.batch_size = int(config.get("batchSize") or 1)
        self.response_timeout = int(config.get("responseTimeout") or settings["default_response_timeout"])
        self.startup_timeout = int(config.get("startupTimeout") or settings["default_startup_timeout"])
        self.queue_size = int(settings["job_queue_size"])
        self.socket = folder / "s"  # short: the path of a Unix socket is limited to 107 bytes
        self.at_once = self.workers * self.batch_size
        self.active = 0
        self.bodies: dict[str, bytes] = {}  # of the requests that workers have been given, by id
        self.ready = asyncio.Event()
        self.loaded = ""
        self.closing = False
        self._turns = asyncio.Semaphore(self.at_once)
        self._threads = ThreadPoolExecutor(self.at_once + 1)
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor = asyncio.create_task(self._supervise())

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return max(0, self.active - self.at_once)

    async def ask(self, body: bytes, content_type: str, request_id: str) -> tuple[Answer, float]:
        """Pass a request to a worker when it is its turn: the answer, and the seconds in the queue. Raises Problem."""
        if self.waiting >= self.queue_size:
            message = f"The queue of model {MODEL}, version {self.name}, is full."
            raise Problem(503, "ServiceUnavailableException", message)
        self.active += 1
        arrived = time.monotonic()
        try:
            async with self._turns:
                await self.until_ready()
                waited = time.monotonic() - arrived
                self.bodies[request_id] = body
                headers = {"Content-Type": content_type, "X-Request-ID": request_id}
                return await self._send("POST", "/predict", self.response_timeout, headers), waited
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError):
                message = "no answer within %d s: starting the worker again"
                server_log.error(message, self.response_timeout, extra=self._who)
                self.ready.clear()  # new requests wait for the next process
                self._kill()
            raise _worker_died() from error
        finally:
            self.active -= 1
            self.bodies.pop(request_id, None)

    async def _hand_over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Give a worker the body that it asks for."""
        request_id = (await reader.readline()).decode().strip()
        with contextlib.suppress(ConnectionError):  # the worker has died
            writer.write(self.bodies.get(request_id, b""))
            await writer.drain()
        writer.close()

    async def until_ready(self) -> None:
        """Wait for the workers. Raises Problem if the version is closed instead."""
        if not self.closing:
            await self.ready.wait()
        if self.closing:
            raise _worker_died()

    async def close(self, patience: float) -> None:
        """Wait until every request is answered, at most ``patience`` seconds, then end the processes."""
        deadline = time.monotonic() + patience
        while self.active and self.ready.is_set() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self.closing = True
        self._supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._supervisor
        self.ready.set()  # wakes the requests that still wait; they fail
        self._threads.shutdown(wait=False)

    def describe(self) -> dict[str, Any]:
        """The version as TorchServe's management API describes it."""
        status = "READY" if self.ready.is_set() else "UNLOADED"
        pids = []
        with contextlib.suppress(OSError, ValueError):  # not written yet
            pids = json.loads((self.folder / WORKERS).read_text())
        return {
            "modelName": MODEL,
            "modelVersion": self.name,
            "modelUrl": self.archive,
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": self.batch_size,
            "responseTimeout": self.response_timeout,
            "workers": [
                {"id": str(9000 + i), "startTime": self.loaded, "status": status, "pid": pid, "gpu": False}
                for i, pid in enumerate(pids)
            ],
            "jobQueueStatus": {
                "pendingRequests": self.waiting,
                "remainingCapacity": self.queue_size - self.waiting,
            },
        }

    async def _supervise(self) -> None:
        pause = 1.0
        async with await asyncio.start_unix_server(self._hand_over, self.folder / BODIES):
            while True:
                if await self._run():
                    pause = 1.0
                else:
                    server_log.error("Load model failed: %s, error: Worker died.", MODEL, extra=self._who)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _run(self) -> bool:
        """Start the processes and wait until they have ended. Whether they were READY meanwhile."""
        for name in (WORKERS, self.socket.name):
            (self.folder / name).unlink(missing_ok=True)
        command = ["-m", "serve_config.litserve.worker", self.folder, self.socket, self.workers]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *map(str, command),
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LONGEST_LINE,
            process_group=0,
        )
        log = asyncio.create_task(self._log(self._process))
        waiting = asyncio.create_task(self._wait_ready())
        try:
            await self._process.wait()
            self._kill()  # what it has started
            await log
            return waiting.done() and waiting.result()
        finally:
            self._kill()
            self._process = None
            waiting.cancel()
            self.ready.clear()

    async def _log(self, process: asyncio.subprocess.Process) -> None:
        who = {"who": f"{self._who['who']}-stdout"}
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # a line that is longer than LONGEST_LINE
            async for line in process.stdout:
                model_log.info("%s", line.decode(errors="replace").rstrip(), extra=who)
        server_log.info("Stopped Scanner - %s", who["who"], extra=self._who)

    @property
    def _who(self) -> dict[str, str]:
        """The name of TorchServe's thread for a worker, by which its logs are read (serve_config/server/logs.py)."""
        return {"who": f"W-9000-{MODEL}_{self.name}"}

    async def _wait_ready(self) -> bool:
        """Whether the process answered in time; if not, it is ended."""
        deadline = time.monotonic() + self.startup_timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if (await self._send("GET", "/health", 5)).status == 200:
                    self.loaded = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                    self.ready.set()
                    return True
            await asyncio.sleep(0.1)
        server_log.error("not loaded after %d s", self.startup_timeout, extra=self._who)
        self._kill()
        return False

    async def _send(
        self, method: str, path: str, timeout: float, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one request to the process, from a thread. Raises OSError (TimeoutError) and HTTPException."""

        def send() -> Answer:
            with contextlib.closing(http.client.HTTPConnection("localhost")) as connection:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(timeout)
                connection.sock.connect(str(self.socket))
                connection.request(method, path, headers=headers or {})
                response = connection.getresponse()
                found = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, found, response.read())

        return await asyncio.get_running_loop().run_in_executor(self._threads, send)

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _worker_died() -> Problem:
    return Problem(507, "InternalServerException", "Worker died.")
