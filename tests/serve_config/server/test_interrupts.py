"""Ctrl-C at the moment in which a process is begun."""

import os
import signal
import subprocess

import pytest

from serve_config import demo
from serve_config.server.interrupts import interrupts_wait


def test_what_has_just_begun_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            begun.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run("http.server 0")
    [process] = begun
    try:
        assert process.poll() is not None
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_block_ends_first(number: signal.Signals) -> None:
    former = signal.getsignal(number)
    done = []

    def interrupted_work() -> None:
        with interrupts_wait():
            os.kill(os.getpid(), number)
            done.append("the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted_work()
    assert done == ["the block"]
    assert signal.getsignal(number) is former
