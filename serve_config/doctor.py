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
from typing import Literal, NamedTuple

from serve_config.errors import ServeError
from serve_config.server.java import find_java
from serve_config.server.properties import DEFAULT_PORTS, bind, owner

GIBIBYTE = 1024**3
DISK_WANTED = 10  # GiB; the packages take 7, mostly CUDA libraries
JAVA_AGE = 365  # days after which security fixes are surely missing
INSTALL = "run `make install`"

# Runs in the project's Python, which may not be this one. Importing is the only proof that the packages fit.
PROBE = """
import importlib.metadata as metadata, json
found = {}
for name in ("torch", "torchvision", "torchserve", "torch-model-archiver", "psutil", "requests", "click"):
    try: found[name] = [metadata.version(name), ""]
    except metadata.PackageNotFoundError: found[name] = ["", "not installed"]
def attempt(name, code):
    try: exec(code, globals()); return [found.get(name, [""])[0] or "imports", ""]
    except Exception as error: return ["", f"{type(error).__name__}: {error}".splitlines()[0]]
pair = attempt("torchvision", "import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)")
if found["torchvision"][0]: found["torchvision"] = pair
found["detectron2"] = attempt("detectron2", "import detectron2.modeling")
found["GPU"] = attempt("GPU", "assert torch.cuda.is_available()")[1] == "" and torch.cuda.get_device_name(0)
print(json.dumps(found))
"""


class Finding(NamedTuple):
    """``missing`` is what the service cannot run without."""

    level: Literal["ok", "warn", "missing"]
    subject: str
    text: str
    cure: str = ""


def examine(home: Path, ports: dict[str, int]) -> Iterator[Finding]:
    """Everything, in the order of a first installation. Takes some seconds, since it imports torch."""
    yield check_python()
    yield from check_packages(project_python())
    yield check_java(project_python(), date.today())
    yield from (check_port(home, name, port) for name, port in ports.items() if port)
    yield check_disk(Path.cwd())


def project_python() -> Path:
    """The interpreter that holds the packages: ``.venv`` once `make install` has made it, else this one."""
    installed = Path(__file__).resolve().parents[1] / ".venv" / "bin" / "python"
    return installed if installed.exists() else Path(sys.executable)


def check_python() -> Finding:
    version = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036, this runs on any Python
        return Finding("missing", "Python", f"{version} is too old", "install Python 3.11 or newer")
    return Finding("ok", "Python", version)


def check_packages(python: Path) -> Iterator[Finding]:
    try:
        answer = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=300)
        found = json.loads(answer.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        yield Finding("missing", "packages", f"{python} does not run", f"delete .venv and {INSTALL}")
        return
    gpu = found.pop("GPU")
    for name, (version, problem) in found.items():
        yield Finding("missing", name, problem, INSTALL) if problem else Finding("ok", name, version)
    if gpu:
        yield Finding("ok", "GPU", f"{gpu}, and torch can use it")
    elif shutil.which("nvidia-smi") and found["torch"][0]:
        yield Finding(
            "warn", "GPU", "nvidia-smi is there, but torch cannot use a GPU", "update the NVIDIA driver"
        )
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
    return Finding(
        "warn",
        "Java",
        f"{text}: {why}, so it may lack security fixes",
        "install a current Java and set JAVA_HOME",
    )


def check_port(home: Path, name: str, port: int) -> Finding:
    with socket.socket() as listener:
        try:
            bind(listener, port)
            return Finding("ok", f"port {port}", f"free ({name.replace('_', ' ')})")
        except OSError as error:
            if port in own_ports(home):
                return Finding("ok", f"port {port}", f"used by our own TorchServe ({name.replace('_', ' ')})")
            cure = f"stop that program, or start with --{name.replace('_', '-')}-port N (0 takes a free one)"
            return Finding("warn", f"port {port}", f"{error.strerror}{owner(port)}", cure)


def own_ports(home: Path) -> list[int]:
    try:
        return list(json.loads((home / "state.json").read_text())["ports"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


def check_disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / GIBIBYTE
    text = f"{free:.0f} GiB free at {folder}"
    return (
        Finding("ok", "disk", text)
        if free >= DISK_WANTED
        else Finding("warn", "disk", text, f"free {DISK_WANTED} GiB")
    )


def report(home: Path, ports: dict[str, int]) -> int:
    """Print every finding; return the exit status, 1 if something is missing."""
    missing = 0
    for level, subject, text, cure in examine(home, ports):
        print(f"{level:8} {subject:20} {text}" + (f"\n{'':29} → {cure}" if cure else ""), flush=True)
        missing += level == "missing"
    print(f"\n{missing} missing" if missing else "\neverything needed is there")
    return int(missing > 0)


if __name__ == "__main__":
    chosen = {
        name: int(os.environ.get(f"SERVE_{name.upper()}_PORT", port)) for name, port in DEFAULT_PORTS.items()
    }
    sys.exit(report(Path(os.environ.get("SERVE_HOME", ".serve")).resolve(), chosen))
