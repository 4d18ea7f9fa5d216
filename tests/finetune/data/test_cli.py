"""The command line itself: help, usage, exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from finetune import cli
from tests.finetune.data.samples import run

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("command", [(), ("balloon",), ("synthetic",), ("via",), ("coco",), ("check",)])
def test_every_command_has_help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("data", *command, "--help")
    assert stop.value.code == 0
    assert "usage: python -m finetune data" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args", [("data",), ("data", "nonsense"), ("data", "via"), ("data", "check", "x", "--y")]
)
def test_wrong_usage_is_status_2(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*args)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


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
    assert cli.main(["data", "check", str(tmp_path)]) == 130


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, finetune.data.cli; print({'numpy', 'torch', 'cv2', 'PIL'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
