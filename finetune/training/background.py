"""One call at a time in a thread: a checkpoint is written while the training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """A thread that runs one call at a time. What a call raises is raised by the next :meth:`run` or :meth:`wait`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[object] | None = None

    def run(self, call: Callable[..., object], *arguments: object) -> None:
        """Wait for the call before, then start this one."""
        self.wait()
        self._running = self._thread.submit(call, *arguments)

    def wait(self) -> None:
        if self._running:
            self._running.result()

    def close(self) -> None:
        """Let the running call finish. Its error is dropped: this is called while another one is being raised."""
        self._thread.shutdown()
