"""The command line itself: help, usage, exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.finetune.data.samples import run

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("command", ["", "balloon", "synthetic", "via", "coco", "check"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", *command.split(), "--help") == 0
    assert f"Usage: maskrcnn data {command}".rstrip() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("data nonsense", "No such command 'nonsense'"),
        ("data chek x", "Did you mean 'check'?"),
        ("data via", "Missing argument 'FOLDER'"),
        ("data check x --y", "No such option '--y'"),
        ("data via x --root y --class a --class-attribute b", "exclude each other"),
    ],
)
def test_wrong_usage_is_status_2(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split()) == 2
    assert message in capsys.readouterr().err


def test_a_reader_that_stops_early_gets_no_traceback(tmp_path: Path) -> None:
    """`maskrcnn data check DIR | head -1`"""
    assert run("data", "synthetic", "--images", 3, "--size", "64x64", "--root", tmp_path / "a") == 0
    script = f"{sys.executable} -m finetune data check {tmp_path / 'a'} | (read -r line; exec <&-; sleep 1)"
    done = subprocess.run(
        ["bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_an_error_is_one_line_and_status_1() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "finetune", "data", "check", "/nowhere"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: /nowhere holds no data set")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.data.check.check_dataset", interrupt)
    assert run("data", "check", tmp_path) == 130


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, finetune.data.cli; print({'numpy', 'torch', 'cv2', 'PIL'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
