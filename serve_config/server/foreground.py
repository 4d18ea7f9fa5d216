"""Stay beside TorchServe, as systemd and containers want it."""

from __future__ import annotations

import time

from serve_config.errors import ServeError
from serve_config.server import lifecycle, processes
from serve_config.server.state import Home, State


def watch(home: Home) -> None:
    """Return when TorchServe was stopped by `stop`. Raises ServeError if it ended by itself."""
    state = State.load(home)
    while processes.running(state):
        time.sleep(0.5)
    if State.load(home).pid != 0:
        raise ServeError(f"TorchServe ended by itself: {lifecycle.why_it_ended(home)}")
