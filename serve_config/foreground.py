"""Stay beside TorchServe, as systemd and containers want it: end with it, and end it when told to."""

from __future__ import annotations

import signal
import time
from types import FrameType

from serve_config import processes, torchserve
from serve_config.errors import ServeError
from serve_config.state import Home, State


def stay(home: Home) -> int:
    """Return 0 after SIGTERM or SIGINT, with TorchServe stopped. Raises ServeError if it ends by itself."""
    told: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        told.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        state = State.load(home)
        while not told and processes.running(state):
            time.sleep(0.5)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if told:
        torchserve.stop(home)
        return 0
    if State.load(home).pid == 0:  # somebody used `stop`
        return 0
    raise ServeError(f"TorchServe ended by itself: {torchserve.why_it_ended(home)}")
