from collections.abc import Callable
from pathlib import Path

import pytest

from tests.finetune.data.samples import nothing_left, run

Import = Callable[..., str]
Check = Callable[..., str]


@pytest.fixture
def import_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """Imports into ``tmp_path/set``, all photos into train unless told otherwise; returns the messages.

    A failed import must end with one sentence and leave nothing behind.
    """

    def command(source: Path | str, *options: object, status: int = 0, root: str = "set") -> str:
        capsys.readouterr()
        whole = ("--val", 0, "--test", 0)
        assert run("data", "import", source, "--root", tmp_path / root, *whole, *options) == status
        captured = capsys.readouterr()
        if status:
            *notes, error = captured.err.splitlines()
            assert error.startswith("Error: ")
            assert [note for note in notes if not note.startswith("recognized as ")] == []
            assert nothing_left(tmp_path / root)
        else:
            assert captured.out == f"{tmp_path / root}\n"
        return captured.err

    return command


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Checks a data set; returns the report."""

    def command(root: Path, *, status: int = 0) -> str:
        capsys.readouterr()
        assert run("data", "check", root) == status
        return capsys.readouterr().out

    return command
