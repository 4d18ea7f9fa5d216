from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import psutil
import pytest

from serve_config import processes
from serve_config.errors import ServeError
from serve_config.state import LONGEST_SOCKET_FOLDER, Home, State, boot_id


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / ".serve")
    home.create()
    return home


def test_state_comes_back_as_saved(home: Home) -> None:
    state = State(1, 2.5, "boot", {"inference": 8080}, "/store", {"a": "maskrcnn_a.mar"}, "a", ["b"])
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
    with home.lock(), pytest.raises(ServeError, match="another serve_config command"), home.lock():
        pass
    with home.lock():
        pass


@pytest.mark.parametrize("length", [10, 60, 200])
def test_worker_sockets_fit_into_a_path(tmp_path: Path, length: int) -> None:
    folder = Home.at(tmp_path / ("x" * length)).tmp
    assert len(os.fsencode(folder)) <= LONGEST_SOCKET_FOLDER
    assert folder != Home.at(tmp_path / ("y" * length)).tmp


class TestProcessIdentity:
    """A process id alone names nobody: it may have been given to a stranger since."""

    def state_of(self, process: subprocess.Popen[bytes]) -> State:
        return State(process.pid, psutil.Process(process.pid).create_time(), boot_id())

    def test_living_process_is_found_and_ended(self) -> None:
        with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
            state = self.state_of(process)
            assert processes.running(state) is not None
            assert [member.pid for member in processes.members(state)] == [process.pid]
            processes.end(state)
            assert processes.running(state) is None
            assert processes.members(state) == []

    @pytest.mark.parametrize("change", ["created", "boot"])
    def test_stranger_with_the_same_number_is_left_alone(self, change: str) -> None:
        with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
            state = self.state_of(process)
            if change == "created":
                state.created -= 100
            else:
                state.boot = "an earlier one"
            assert processes.running(state) is None
            processes.end(state)
            assert process.poll() is None
            process.kill()

    def test_orphans_of_a_dead_frontend_are_ended(self) -> None:
        with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as process:
            state = self.state_of(process)
            while len(processes.members(state)) < 2:
                pass
            process.kill()
            process.wait()
            orphans = processes.members(state)
            assert len(orphans) == 1
            processes.end(state)
            assert processes.members(state) == []

    def test_deaf_process_is_killed(self) -> None:
        script = "trap '' TERM; while :; do sleep 0.1; done"
        with subprocess.Popen(["sh", "-c", script], start_new_session=True) as process:
            state = self.state_of(process)
            processes.end(state, patience=0.5)
            assert processes.members(state) == []


def test_environment_cannot_configure_torchserve(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "LOG_LOCATION", "TS_ANYTHING", "SERVE_HOME"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment = processes.environment()
    assert environment["OMP_NUM_THREADS"] == "1"
    assert "x" not in environment.values()
