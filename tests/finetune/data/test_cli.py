"""The command line itself: help, usage, exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from finetune.data.cli import data
from tests.finetune.data.samples import run, save_photo, via_folder

REPOSITORY = Path(__file__).parents[3]


COMMANDS = [
    (),
    *((name,) for name in ["import", "balloon", "synthetic", "check", "merge", "export", "from-review"]),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("data", *command, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: ")
    assert f"  maskrcnn data {' '.join(command)}".rstrip() in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("data nonsense", "No such command 'nonsense'"),
        ("data chek x", "Did you mean 'check'?"),
        ("data import", "Missing argument 'SOURCE'"),
        ("data check x --y", "No such option '--y'"),
        ("data export x --format y", "'y' is not one of 'via', 'coco'"),
        ("data import x --root y --class a --class-attribute b", "exclude each other"),
    ],
)
def test_wrong_usage_is_status_2(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split()) == 2
    assert message in capsys.readouterr().err


def test_the_readme_names_every_command_and_every_option_of_import() -> None:
    text = (REPOSITORY / "finetune/data/README.md").read_text(encoding="utf-8")
    assert [name for name in data.commands if f"`data {name}" not in text] == []
    options = [
        option for param in data.commands["import"].params for option in param.opts if option[0] == "-"
    ]
    assert len(options) > 10
    assert [option for option in options if option not in text] == []


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path: Path) -> None:
    """`maskrcnn data check DIR | head -1`."""
    assert run("data", "synthetic", "--root", tmp_path / "set", "--images", 3, "--size", "64x64") == 0
    command = [sys.executable, "-m", "finetune", "data", "check", str(tmp_path / "set")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()  # before the report is printed: importing numpy takes longer
        assert process.stderr.read() == b""
        assert process.wait() in (1, 141)  # click answers a closed pipe with 1


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


def test_more_negatives_make_another_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = via_folder(tmp_path / "photos", 8, kind="mug")
    save_photo(tmp_path / "tables" / "a.jpg", seed=91)
    command = ("data", "import", photos, "--root", tmp_path / "set", "--negatives", tmp_path / "tables")
    assert run(*command) == 0
    assert run(*command) == 0
    assert "is up to date" in capsys.readouterr().err
    save_photo(tmp_path / "tables" / "b.jpg", seed=92)
    assert run(*command) == 1
    assert "holds another data set" in capsys.readouterr().err
