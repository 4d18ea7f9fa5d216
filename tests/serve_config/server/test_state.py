from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest

from serve_config.errors import ServeError
from serve_config.server import processes
from serve_config.server.state import LONGEST_SOCKET_FOLDER, Home, State


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / ".serve")
    home.create()
    return home


def test_state_comes_back_as_saved(home: Home) -> None:
    state = State(1, 2.5, {"inference": 8080}, "/store", {"a": "maskrcnn_a.mar"}, "a", ["b"], 2, "litserve")
    state.save(home)
    assert State.load(home) == state
    assert stat.S_IMODE(home.state_file.stat().st_mode) == 0o600
    assert [path.name for path in home.path.iterdir() if path.name.startswith(".")] == []


def test_no_state_yet(home: Home) -> None:
    assert State.load(home) == State()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unknown": 1}', "\0"])
def test_damaged_state_says_what_to_do(home: Home, text: str) -> None:
    home.state_file.write_text(text)
    with pytest.raises(ServeError, match=r"state.json cannot be read: delete it"):
        State.load(home)


def test_folder_is_private(home: Home) -> None:
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServeError, match=r"cannot be written .*--home"):
        Home.at(tmp_path / "file" / ".serve").create()


def test_second_command_is_told_to_wait(home: Home) -> None:
    with home.lock(), pytest.raises(ServeError, match="another command is changing"), home.lock():
        pass
    with home.lock():
        pass


@pytest.mark.parametrize("length", [10, 60, 200])
def test_worker_sockets_fit_into_a_path(tmp_path: Path, length: int) -> None:
    folder = Home.at(tmp_path / ("x" * length)).tmp
    assert len(os.fsencode(folder)) <= LONGEST_SOCKET_FOLDER
    assert folder != Home.at(tmp_path / ("y" * length)).tmp


@pytest.fixture
def session() -> Iterator[Callable[[str], tuple[subprocess.Popen[bytes], State]]]:
    """Runs a shell script in a session of its own, as TorchServe is; kills it in the end."""
    started = []

    def run(script: str) -> tuple[subprocess.Popen[bytes], State]:
        process = subprocess.Popen(["sh", "-c", f"echo up; {script}"], start_new_session=True, stdout=PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process, State(process.pid, psutil.Process(process.pid).create_time())

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


Session = Callable[[str], tuple[subprocess.Popen[bytes], State]]


class TestProcessIdentity:
    """A process id alone names nobody: it may have been given to a stranger since."""

    def test_living_process_is_found_and_ended(self, session: Session) -> None:
        process, state = session("exec sleep 60")
        assert processes.running(state) is not None
        assert [member.pid for member in processes.members(state)] == [process.pid]
        processes.end(state)
        assert processes.running(state) is None
        assert processes.members(state) == []

    @pytest.mark.parametrize("seconds", [-100, 100])
    def test_stranger_with_the_same_number_is_left_alone(self, session: Session, seconds: int) -> None:
        process, state = session("exec sleep 60")
        state.created += seconds
        assert processes.running(state) is None
        processes.end(state)
        assert process.poll() is None

    def test_orphans_of_a_dead_frontend_are_ended(self, session: Session) -> None:
        process, state = session("sleep 60 & echo up; wait")
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
        assert processes.running(state) is None
        assert len(processes.members(state)) == 1
        processes.end(state)
        assert processes.members(state) == []

    def test_deaf_process_is_killed(self, session: Session) -> None:
        process, state = session("trap '' TERM; echo deaf; while :; do sleep 0.1; done")
        assert process.stdout is not None
        assert process.stdout.readline() == b"deaf\n"
        processes.end(state, patience=0.1)
        assert processes.members(state) == []


def test_environment_cannot_configure_torchserve(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "LOG_LOCATION", "TS_ANYTHING", "SERVE_HOME"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment = processes.environment()
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert processes.environment()["OMP_WAIT_POLICY"] == "active"
    assert "x" not in environment.values()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_wait_for_the_end_of_the_block(number: signal.Signals) -> None:
    former = signal.getsignal(number)
    done = []

    def interrupted_work() -> None:
        with processes.delayed_interrupts():
            os.kill(os.getpid(), number)
            done.append("the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted_work()
    assert done == ["the block"]
    assert signal.getsignal(number) is former
