"""Load that records the outcome of every call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import requests


class Callers:
    """Threads that call without a pause until the block ends, one for each of ``calls``.

    Attributes:
        answers: (asked, answered, answer), the times by ``time.monotonic``.
        lost: exceptions raised instead of an answer.
    """

    def __init__(self, *calls: Callable[[], requests.Response]) -> None:
        self.answers: list[tuple[float, float, requests.Response]] = []
        self.lost: list[Exception] = []
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(call,)) for call in calls]

    def work(self, call: Callable[[], requests.Response]) -> None:
        while not self.ending.is_set():
            asked = time.monotonic()
            try:
                answer = call()
                self.answers.append((asked, time.monotonic(), answer))
            except Exception as error:
                self.lost.append(error)

    def __enter__(self) -> Callers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()
