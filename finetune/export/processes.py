"""Run programs in processes of their own: the tools of ``handler/build``, and torch-model-archiver."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from finetune.errors import UserError

TOOLS = Path(__file__).resolve().parents[2] / "handler" / "build"

_RUN_TOOL = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def run_tool(root: Path, name: str, *arguments: str | Path, what: str) -> None:
    """Run a Python file of ``handler/build`` in a new interpreter.

    Args:
        root: the one folder that it imports from, besides the installed packages.
        what: the step that an error message names.

    Raises:
        UserError: it failed, or the interpreter crashed.
    """
    words = [
        str(word.resolve()) if isinstance(word, Path) else word for word in (root, TOOLS / name, *arguments)
    ]
    execute([sys.executable, "-I", "-B", "-c", _RUN_TOOL, *words], what)


def execute(command: Sequence[str], what: str, env: dict[str, str] | None = None) -> None:
    """Run a command quietly; its last line on standard error becomes the error message.

    Raises:
        UserError: its exit status is not 0.
    """
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode == 0:
        return
    if done.returncode < 0:
        reason = f"it crashed with {signal.Signals(-done.returncode).name}"
    else:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1].strip()
    raise UserError(f"{what} failed ({reason})")


def announce(step: str) -> None:
    """Print the step that begins, on standard error."""
    click.echo(f"{step} …", err=True)
