"""Run programs in processes of their own: the tools of ``handler/build``, and torch-model-archiver."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from finetune.errors import UserError

Script = Sequence[str | Path]
"""The path of a Python file, then its arguments."""

_RUN_SCRIPTS = """
import json, runpy, sys
root, scripts = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, root)
for script, *arguments in scripts:
    sys.argv[1:] = arguments
    runpy.run_path(script, run_name="__main__")
"""


def run_scripts(root: Path, scripts: Sequence[Script], what: str) -> None:
    """Run Python scripts one after another in one new interpreter.

    Args:
        root: the one folder that they import from, besides the installed packages.
        what: the step that an error message names.

    Raises:
        UserError: a script failed, or the interpreter crashed.
    """
    words = [
        [str(word.resolve()) if isinstance(word, Path) else word for word in script] for script in scripts
    ]
    execute([sys.executable, "-I", "-B", "-c", _RUN_SCRIPTS, str(root.resolve()), json.dumps(words)], what)


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
