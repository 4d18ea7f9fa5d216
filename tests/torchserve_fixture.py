"""A real server for tests: free ports, a folder of its own, and archives that start in a second."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn import run
from serve_config.cli import serve as serve_group
from serve_config.models.client import Client
from serve_config.server import lifecycle
from serve_config.server.properties import DEFAULT_PORTS, Settings
from serve_config.server.state import Home

FREE_PORTS = dict.fromkeys(DEFAULT_PORTS, 0)
FREE_PORT_OPTIONS = [f"--{name.replace('_', '-')}-port=0" for name in DEFAULT_PORTS]


def serve(command: str, *arguments: str | Path, home: Home) -> int:
    """``maskrcnn serve COMMAND`` in this process; returns the exit status."""
    return run(serve_group, "maskrcnn serve", [command, "--home", str(home.path), *map(str, arguments)])


TOY_HANDLER = '''
import json, os, time

def handle(data, context):
    """Answer with the version, the process, and the size of the body; ``b"sleep:0.5"`` sleeps first."""
    if data is None:
        return None
    version = json.load(open(os.path.join(context.system_properties["model_dir"], "archive.json")))["version"]
    answers = []
    for row in data:
        body = row.get("image") or row.get("data") or row.get("body") or b""
        body = bytes(body) if not isinstance(body, (str, dict)) else str(body).encode()
        if body.startswith(b"sleep:"):
            time.sleep(float(body[6:]))
        answers.append({"version": version, "pid": os.getpid(), "bytes": len(body)})
    return answers
'''


# The same for LitServe, which asks the archive's service and not its handler.
TOY_SERVICE = {
    "handler/__init__.py": "",
    "handler/api/__init__.py": "",
    "handler/api/metrics.py": "def batch_samples(answers, seconds, version): return []",
    "handler/model/__init__.py": "",
    "handler/model/cores.py": "def usable_cores(): return 1",
    "handler/service.py": """
import json
from types import SimpleNamespace
import toy_handler

class Request:
    def __init__(self, parts, content_type, id):
        self.parts = parts

class Service:
    broken = False

    @classmethod
    def load(cls, folder, config, **_):
        service = cls()
        service.context = SimpleNamespace(
            system_properties={"model_dir": str(folder)}, set_response_content_type=lambda *_: None
        )
        service.predictor = SimpleNamespace(card=json.loads((folder / "archive.json").read_text()))
        return service

    def warm_up(self):
        toy_handler.handle(None, self.context)

    def describe(self):
        return answer(self.predictor.card)

    def answer(self, requests):
        return [answer(found) for found in toy_handler.handle([each.parts for each in requests], self.context)]

def answer(document):
    return SimpleNamespace(status=200, content_type="application/json", body=json.dumps(document).encode())
""",
}


@dataclass(frozen=True)
class RunningTorchServe:
    """A TorchServe that answers. ``said`` is what `start` reported."""

    home: Home
    store: Path
    client: Client
    said: list[str]


@contextmanager
def running_torchserve(
    folder: Path, models: Sequence[Path | str] = (), store: Path | None = None, **settings: Any
) -> Iterator[RunningTorchServe]:
    """TorchServe on free ports with its state in ``folder/.serve``; stopped when the block ends.

    ``models`` are archives (copied into the store) or versions that lie there already, the first becomes the
    default.
    """
    home, store = Home.at(folder / ".serve"), store or folder / "model_store"
    said: list[str] = []
    options = Settings(ports=FREE_PORTS, **settings)
    try:
        lifecycle.start(home, options, store, [str(model) for model in models], said.append)
        yield RunningTorchServe(home, store.resolve(), Client(home), said)
    finally:
        lifecycle.stop(home)


def toy_archive(
    folder: Path,
    version: str,
    *,
    handler: str = TOY_HANDLER,
    classes: Sequence[str] = ("balloon",),
    yaml: str = "",
) -> Path:
    """An archive without torch, made by torch-model-archiver as the real ones are:
    ``folder/maskrcnn_VERSION.mar``.
    """
    work = folder / f"parts_{version}"
    work.mkdir(parents=True)
    (work / "toy_handler.py").write_text(textwrap.dedent(handler))
    (work / "archive.json").write_text(
        json.dumps({"name": "maskrcnn", "version": version, "classes": list(classes)})
    )
    for name, text in TOY_SERVICE.items():
        (work / "service" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "service" / name).write_text(text)
    more: list[str | Path] = []
    if yaml:
        (work / "model-config.yaml").write_text(yaml)
        more = ["--config-file", work / "model-config.yaml"]
    archiver = Path(sys.executable).with_name("torch-model-archiver")
    command = [archiver, "--model-name", "maskrcnn", "--version", version, "--export-path", work]
    extra = f"{work / 'archive.json'},{work / 'service'}"
    command += ["--handler", work / "toy_handler.py", "--extra-files", extra, *more]
    subprocess.run(command, check=True, capture_output=True)
    return (work / "maskrcnn.mar").rename(folder / f"maskrcnn_{version}.mar")


def fake_java(folder: Path, banner: str, status: int = 0) -> Path:
    """A program that answers ``java -version`` with ``banner``."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho '{banner}' >&2\nexit {status}\n")
    program.chmod(0o755)
    return program
