"""Draw the three sample pictures of the page, and note their exact masks for the tests.

    python tests/web_client/draw_samples.py

writes ``web_client/static/samples/*.webp`` and ``tests/web_client/data/samples.json``. Both are committed:
the page must not need ``finetune``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

ROOT = Path(__file__).resolve().parents[2]
SEEDS = {"wall": 193, "street": 3, "window": 61}
SIZE = (640, 480)


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from finetune.data.synthetic import draw_scene

    masks = {}
    for name, seed in SEEDS.items():
        picture, drawn = draw_scene(seed, *SIZE)
        path = ROOT / "web_client" / "static" / "samples" / f"{name}.webp"
        Image.fromarray(picture).save(path, quality=50, method=6)
        largest_first = sorted(drawn, key=lambda mask: -int(mask.sum()))
        encoded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in largest_first]
        masks[name] = [rle["counts"].decode() for rle in encoded]
        print(path, path.stat().st_size, "bytes,", len(drawn), "balloons")
    target = Path(__file__).parent / "data" / "samples.json"
    target.write_text(json.dumps(masks, indent=1) + "\n")
    print(target)


if __name__ == "__main__":
    main()
