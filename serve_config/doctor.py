"""Check this machine for what is missing, and name the cure.

Needs only the standard library: before anything is installed, `make doctor` runs ``python3 -m serve_config.doctor``.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

from serve_config.errors import ServeError
from serve_config.server.java import find_java
from serve_config.server.properties import DEFAULT_PORTS, bind, owner
from serve_config.server.state import Home, State

GIBIBYTE = 1024**3
DISK_WANTED = 10  # GiB; the packages take 7, mostly CUDA libraries
JAVA_AGE = 365  # days after which security fixes are surely missing
INSTALL = "run `make install`"

# Runs in the project's Python, which may not be this one. Importing is the only proof that the packages fit.
PROBE = """
import importlib.metadata as metadata, json
found = {}
for name, code in {
    "torch": "import torch", "torchserve": "import ts", "torch-model-archiver": "import model_archiver",
    "torchvision": "import torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)",
    "detectron2": "import detectron2.modeling", "click": "import click",
    "GPU": "assert torch.cuda.is_available(); gpu = torch.cuda.get_device_name(0)",
}.items():
    try:
        exec(code)
        found[name] = [gpu if name == "GPU" else metadata.version(name), ""]
    except metadata.PackageNotFoundError: found[name] = ["imports", ""]
    except Exception as error: found[name] = ["", f"{type(error).__name__}: {error}".splitlines()[0]]
print(json.dumps(found))
"""


class Finding(NamedTuple):
    """``level`` is ok, warn or missing; without what is missing, the service cannot run."""

    level: str
    subject: str
    text: str
    cure: str = ""


def examine(home: Home, ports: dict[str, int]) -> Iterator[Finding]:
    """Everything, in the order of a first installation. Takes some seconds, since it imports torch."""
    installed = Path(__file__).resolve().parents[1] / ".venv" / "bin" / "python"
    python = installed if installed.exists() else Path(sys.executable)
    if sys.version_info < (3, 11):  # noqa: UP036, this runs on any Python
        yield Finding("missing", "Python", platform.python_version(), "install Python 3.11 or newer")
    else:
        yield Finding("ok", "Python", platform.python_version())
    yield from check_packages(python)
    yield check_java(python, date.today())
    yield from (check_port(home, name, port) for name, port in ports.items() if port)
    free = shutil.disk_usage(".").free / GIBIBYTE
    enough = free >= DISK_WANTED
    cure = "" if enough else f"free {DISK_WANTED} GiB"
    yield Finding("ok" if enough else "warn", "disk", f"{free:.0f} GiB free at {Path.cwd()}", cure)


def check_packages(python: Path) -> Iterator[Finding]:
    try:
        answer = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=300)
        found = json.loads(answer.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        yield Finding("missing", "packages", f"{python} does not run", f"delete .venv and {INSTALL}")
        return
    gpu, _ = found.pop("GPU")
    for name, (version, problem) in found.items():
        yield Finding("missing", name, problem, INSTALL) if problem else Finding("ok", name, version)
    if gpu:
        yield Finding("ok", "GPU", f"{gpu}, and torch can use it")
    elif shutil.which("nvidia-smi") and found["torch"][0]:
        text = "nvidia-smi is there, but torch cannot use a GPU"
        yield Finding("warn", "GPU", text, "update the NVIDIA driver")
    else:
        yield Finding("ok", "GPU", "none found; the processor is used, which is slower")


def check_java(python: Path, today: date) -> Finding:
    try:
        java = find_java(python)
    except ServeError as error:
        message, _, cure = str(error).partition(": ")
        return Finding("missing", "Java", message, cure)
    text = f"{java.version}, released {java.released or 'on an unknown date'} ({java.program})"
    if java.released and (today - java.released).days <= JAVA_AGE:
        return Finding("ok", "Java", text)
    why = "more than a year old" if java.released else "of unknown age"
    text += f": {why}, so it may lack security fixes"
    return Finding("warn", "Java", text, "install a current Java and set JAVA_HOME")


def check_port(home: Home, name: str, port: int) -> Finding:
    label = name.replace("_", " ")
    with socket.socket() as listener:
        try:
            bind(listener, port)
        except OSError as error:
            if port in State.load(home).ports.values():
                return Finding("ok", f"port {port}", f"used by our own server ({label})")
            cure = f"stop that program, or start with --{name.replace('_', '-')}-port N (0 takes a free one)"
            return Finding("warn", f"port {port}", f"{error.strerror}{owner(port)}", cure)
    return Finding("ok", f"port {port}", f"free ({label})")


def report(home: Home, ports: dict[str, int]) -> int:
    """Print every finding; return the exit status, 1 if something is missing."""
    missing = 0
    for level, subject, text, cure in examine(home, ports):
        print(f"{level:8} {subject:20} {text}" + (f"\n{'':29} → {cure}" if cure else ""), flush=True)
        missing += level == "missing"
    print(f"\n{missing} missing" if missing else "\neverything needed is there")
    return int(missing > 0)


if __name__ == "__main__":
    chosen = {n: int(os.environ.get(f"SERVE_{n.upper()}_PORT", port)) for n, port in DEFAULT_PORTS.items()}
    sys.exit(report(Home.at(os.environ.get("SERVE_HOME", ".serve")), chosen))
