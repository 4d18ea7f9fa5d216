"""The promise: 300 detections on 12 megapixels, and 3000 on 100 in tiles, stay under 1 GiB on top of the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A process of its own: the high-water mark of this one is that of all tests before.
MEASURE = """
import sys
import numpy as np
import torch  # what a worker has loaded anyway
from handler.model import Detections
from handler.service import Request, Service
from handler.api.settings import Settings
from tests.handler.awkward import save
from tests.handler.toys import FakePredictor, blob_detections
from PIL import Image

whole = sys.argv[1] == "whole"
options = dict(pair.split("=") for pair in sys.argv[2:])

class Crowd(FakePredictor):
    def predict(self, images, wanted=None):
        found = [blob_detections(300, *image.shape[:2]) for image in images]
        if whole:  # the worst case: every box is the whole picture
            for image, one in zip(images, found):
                one.boxes[:] = (0, 0, image.shape[1], image.shape[0])
        return found

service = Service(Crowd(), Settings())
kind, size, tiled = options.pop("kind", "JPEG"), (4000, 3000), "tiles" in options
if tiled:
    size = (12500, 8000)
ask = {"image": b"", "max_detections": b"3000" if tiled else b"300"} | {name: value.encode() for name, value in options.items()}

def answer(size):
    picture = Image.effect_noise(size, 40).convert("RGB")
    ask["image"] = save(picture, kind, **({"progressive": True} if kind == "JPEG" and tiled else {}))
    (answer,) = service.answer([Request(ask, "multipart/form-data; boundary=x")])
    assert answer.status == 200, answer.body
    assert answer.instances == (3000 if tiled and size[0] > 1000 else 300), answer.instances

def peak():  # not ru_maxrss: that one is handed down by the process that started this one
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])

answer((64, 64))
before = peak()
answer(size)
print((peak() - before) / 1024)
"""


OPTIONS = [
    "mask_format=rle",
    "mask_format=polygon",
    "mask_format=png",
    "output=overlay",
    "output=splash",
    "output=labels",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("boxes", "options"),
    [
        *(("usual", option) for option in OPTIONS),
        ("whole", "mask_format=rle"),
        ("usual", "tiles=1024"),
        ("whole", "tiles=1024 mask_format=polygon"),
        ("usual", "tiles=1024 kind=PNG"),
    ],
)
def test_a_large_answer_stays_under_1_gib(boxes: str, options: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, boxes, *options.split()],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    mebibytes = float(run.stdout)
    assert mebibytes > 30, "the picture alone is 34 MiB"
    print(f"{boxes} boxes, {options}: {mebibytes:.0f} MiB")
    assert mebibytes < 1024 / 2  # half the promise, which is for picture and network together
