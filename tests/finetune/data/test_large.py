"""5,000 photos are imported in a minute, in bounded memory; the test prints the figures."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune.data.synthetic import draw_scene

PHOTOS = 5000
OBJECTS = 5
SECONDS = 60
BYTES = 10**9


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_thousand_photos(tmp_path):
    picture, _ = draw_scene(1, 1280, 960)
    content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    source = tmp_path / "in"
    source.mkdir()
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    points = (300 + 90 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).tolist()
    shapes = [{"label": "mug", "points": points, "shape_type": "polygon"}] * OBJECTS
    for i in range(PHOTOS):
        (source / f"{i}.jpg").write_bytes(content + i.to_bytes(4, "big"))  # bytes after the end are ignored
        text = json.dumps({"shapes": shapes, "imagePath": f"{i}.jpg", "imageData": None})
        (source / f"{i}.json").write_text(text)
    start = time.perf_counter()
    command = ["data", "import", str(source), "--root", str(tmp_path / "set")]
    subprocess.run([sys.executable, "-m", "finetune", *command], cwd=Path(__file__).parents[3], check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{PHOTOS} photos with {OBJECTS} objects each in {seconds:.0f} s, {peak / 1e6:.0f} MB")
    assert seconds <= SECONDS
    assert peak <= BYTES
