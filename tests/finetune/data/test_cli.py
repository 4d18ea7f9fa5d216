"""The command line itself: help, usage, exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.finetune.data.samples import run

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("data nonsense", 2, "No such command 'nonsense'"),
        ("data chek x", 2, "Did you mean 'check'?"),
        ("data import", 2, "Missing argument 'SOURCE'"),
        ("data check x --y", 2, "No such option '--y'"),
        ("data export x --format y", 2, "'y' is not one of 'via', 'coco'"),
        ("data import x --root y --class a --class-attribute b", 2, "exclude each other"),
        ("data check /nowhere", 1, "Error: /nowhere holds no data set"),
    ],
)
def test_wrong_usage_is_status_2_and_other_errors_1(command, status, message, capsys):
    assert run(*command.split()) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path):
    """`maskrcnn data check DIR | head -1`."""
    assert run("data", "synthetic", "--root", tmp_path / "set", "--images", 3, "--size", "64x64") == 0
    command = [sys.executable, "-m", "finetune", "data", "check", str(tmp_path / "set")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()  # before the report is printed: importing numpy takes longer
        assert process.stderr.read() == b""
        assert process.wait() in (1, 141)  # click answers a closed pipe with 1


def test_ctrl_c_is_status_130(monkeypatch, tmp_path):
    def interrupt(root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.data.check.check_dataset", interrupt)
    assert run("data", "check", tmp_path) == 130


def test_help_imports_nothing_heavy():
    code = "import sys, finetune.data.cli; print({'numpy', 'torch', 'cv2', 'PIL'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=REPOSITORY, text=True).strip() == "set()"
