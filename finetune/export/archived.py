"""Run what an archive carries, in a process that sees only the archive and the installed packages."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from finetune.errors import UserError


def run_archived(root: Path, module: str, *arguments: Path | str, what: str) -> str:
    """Run a module of the archive unpacked at ``root``, which sees only that and installed packages."""
    start = (
        "import runpy, sys; root, module = sys.argv[1:3]; sys.path.insert(0, root); del sys.argv[1:3]; "
        "runpy.run_module(module, run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-I", "-B", "-c", start, str(root.resolve()), module]
    command += [str(a.resolve()) if isinstance(a, Path) else a for a in arguments]
    return execute(command, what)


def execute(command: list[str], what: str, env: dict[str, str] | None = None) -> str:
    """Run quietly; return its standard output. What it says on standard error is shown only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode == 0:
        return done.stdout
    lines = done.stderr.strip().splitlines()
    if done.returncode < 0 or not lines:
        lines = [
            f"it crashed with {signal.Signals(-done.returncode).name}" if done.returncode < 0 else "no reason"
        ]
    raise UserError(f"{what} failed ({lines[-1].strip()}): no archive was written")


def say(step: str) -> None:
    """Tell what is being done, on standard error."""
    print(f"{step} …", file=sys.stderr, flush=True)
