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
@pytest.mark.parametrize("layout", ["coco", "labelme"])
def test_five_thousand_photos(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "in"
    picture, _ = draw_scene(1, 1280, 960)
    content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    source.mkdir()
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    points = (300 + 90 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).tolist()
    images, annotations = [], []
    for i in range(PHOTOS):
        (source / f"{i}.jpg").write_bytes(content + i.to_bytes(4, "big"))  # bytes after the end are ignored
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 1280, "height": 960})
        for j in range(OBJECTS):
            flat = [value + 100 * j for pair in points for value in pair]
            annotations.append(
                {"id": i * OBJECTS + j, "image_id": i, "category_id": 1, "segmentation": [flat]}
            )
        if layout == "labelme":
            shapes = [{"label": "mug", "points": points, "shape_type": "polygon"}] * OBJECTS
            text = json.dumps({"shapes": shapes, "imagePath": f"{i}.jpg", "imageData": None})
            (source / f"{i}.json").write_text(text)
    if layout == "coco":
        document = {"images": images, "categories": [{"id": 1, "name": "mug"}], "annotations": annotations}
        (source / "instances.json").write_text(json.dumps(document))
    start = time.perf_counter()
    command = ["data", "import", str(source), "--root", str(tmp_path / "set")]
    subprocess.run([sys.executable, "-m", "finetune", *command], cwd=Path(__file__).parents[3], check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{layout}: {PHOTOS} photos with {OBJECTS} objects each in {seconds:.0f} s, {peak / 1e6:.0f} MB")
    assert seconds <= SECONDS
    assert peak <= BYTES
