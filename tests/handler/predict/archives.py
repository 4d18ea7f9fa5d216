"""Photos and archives for the tests of predict, and what they read of its output.

The stub archive holds the real handler around a predictor without torch: it finds boxes, takes a moment, dies of a
red image, never returns from a black one, and loses its GPU over a green one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from handler.predict.cli import predict
from maskrcnn import Rooms
from tests.handler.toys import CARD
from tests.toy_models import photo

REPOSITORY = Path(__file__).resolve().parents[3]

PREDICTOR = """
import os, time
from pathlib import Path
import json
import numpy as np
from handler.model import Detections

class Predictor:
    device, precision, engine, threads = "cpu", "fp32", "stub", 1

    def __init__(self, card):
        self.card = card

    @classmethod
    def load(cls, folder, **kwargs):
        assert Path(__file__).is_relative_to(folder), "the archive runs its own code"
        if not (Path(folder) / "model.safetensors").read_bytes():
            raise RuntimeError("no weights at all")
        return cls(json.loads((Path(folder) / "archive.json").read_text()))

    def network_shape(self, height, width):
        return height, width

    def predict(self, images, wanted=None):
        return [self.one(image) for image in images]

    def one(self, image):
        if (image == image[0, 0]).all():
            if image[0, 0, 1]:
                raise RuntimeError("CUDA error: device-side assert triggered")
            os._exit(7) if image[0, 0, 0] else time.sleep(3600)
        time.sleep(SECONDS)
        count = int(image[5, 5].sum()) % 4
        height, width = image.shape[:2]
        boxes = np.array([[i, i, width / 2 + i, height / 2] for i in range(count)], np.float32).reshape(-1, 4)
        scores = np.linspace(0.9, 0.6, count, dtype=np.float32)
        return Detections(boxes, scores, np.zeros(count, np.int64), np.ones((count, 28, 28), np.float32))
"""


def stub_archive(folder: Path, *, seconds: float = 0.0, weights: bytes = b"some") -> Path:
    """An archive that loads in no time; a photo takes it ``seconds``."""
    parts = folder / "stub"
    shutil.copytree(
        REPOSITORY / "handler",
        parts / "handler",
        ignore=shutil.ignore_patterns("__pycache__", "build", "predict"),
    )
    (parts / "handler/model/predictor.py").write_text(PREDICTOR.replace("SECONDS", str(seconds)))
    (parts / "archive.json").write_text(json.dumps(CARD | {"version": "stub"}))
    (parts / "model-config.yaml").write_text("handler: {max_image_bytes: 100000}\n")
    (parts / "model.safetensors").write_bytes(weights)
    with zipfile.ZipFile(folder / "maskrcnn_stub.mar", "w") as file:
        for path in sorted(parts.rglob("*")):
            file.write(path, path.relative_to(parts))
    return folder / "maskrcnn_stub.mar"


def write_photos(folder: Path, count: int) -> list[Path]:
    """``count`` small JPEGs."""
    folder.mkdir(parents=True)
    paths = [folder / f"{i:03}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(photo(72, 96, seed=i)).save(path, quality=90)
    return paths


def write_bad_photos(folder: Path) -> dict[str, Path]:
    """By the error that each must get; ``worker_died`` kills the stub's process."""
    paths = {
        "unsupported_media_type": folder / "text.jpg",
        "undecodable_image": folder / "torn.jpg",
        "image_too_large": folder / "large.png",
        "worker_died": folder / "deadly.png",
    }
    paths["unsupported_media_type"].write_bytes(b"this is text")
    paths["undecodable_image"].write_bytes((folder / "000.jpg").read_bytes()[:600])
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(paths["image_too_large"])
    Image.new("RGB", (60, 40), "red").save(paths["worker_died"])
    return paths


def answers(output: Path) -> list[dict[str, Any]]:
    """The answers in a job's folder, in the order of writing."""
    files = sorted((output / "answers").glob("*.jsonl"))
    return [json.loads(line) for name in files for line in name.read_text().splitlines()]


def answered(output: Path) -> list[str]:
    """Each photo as often as its answer was written."""
    return [answer["photo"] for answer in answers(output)]


def errors(output: Path) -> dict[str, str]:
    """The codes of the photos that got an error."""
    return {each["photo"]: each["error"]["code"] for each in answers(output) if "error" in each}


def invoke(*arguments: object) -> Result:
    """The command line in this process."""
    return CliRunner().invoke(predict, [*map(str, arguments)], obj=Rooms())


def _command(*arguments: object) -> dict[str, Any]:
    # as under nohup, which leaves SIGINT ignored
    ignoring = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [*ignoring, sys.executable, "-m", "maskrcnn", "predict", *map(str, arguments)]
    return {"args": words, "cwd": REPOSITORY, "env": environment, "text": True}


def run_predict(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it."""
    return subprocess.run(**_command(*arguments), capture_output=True, timeout=200)


def start_predict(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(**_command(*arguments), stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
