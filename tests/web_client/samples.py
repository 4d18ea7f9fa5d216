"""What a good model would find in the three sample pictures: exact masks, and invented scores.

This project drew the pictures; the masks in ``data/samples.json`` were saved with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from tests.web_client.stub import instance

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / "web_client" / "page" / "static" / "samples"


def known_answers() -> dict[bytes, list[dict[str, Any]]]:
    """File bytes → instances. The largest balloons get the best scores; the last ones fall below the
    threshold."""
    answers = {}
    for name, counts in json.loads((HERE / "data" / "samples.json").read_text()).items():
        rles = [{"size": [480, 640], "counts": text.encode()} for text in counts]
        answers[(FOLDER / f"{name}.webp").read_bytes()] = [
            instance(coco_mask.decode(rle).astype(bool), 0.997 - 0.035 * number, number)
            for number, rle in enumerate(rles)
        ]
    return answers
