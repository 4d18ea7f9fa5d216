"""What the option ``tiles`` finds of hundreds of small objects, and what it costs.

    python -m tests.benchmarks.bench_tiles [RUN|CHECKPOINT]

Draws photos of 12 megapixels with 260 balloons each, 10 to 40 pixels large, and asks for them at the model's operating
point. A balloon is found if a mask overlaps it with an IoU of at least 0.5; any other mask is false.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from finetune.data.masks import encode_mask
from finetune.data.synthetic import balloon_outline, draw_scene, paint_balloon
from finetune.export.archive import Options, export
from handler.model.tiles import windows
from handler.service import Request, Service
from tests.benchmarks.measuring import argument_parser, describe, machine, save, table

WIDTH, HEIGHT = 4000, 3000
COLUMNS, ROWS = 20, 13
SIDES = (0, 2048, 1024, 512)


def main() -> int:
    parser = argument_parser(__doc__, "reports/bench_tiles")
    parser.add_argument(
        "trained", nargs="?", type=Path, default=Path("model_store/mobilenetv2_fpn_starter.safetensors")
    )
    parser.add_argument("--photos", type=int, default=4)
    args = parser.parse_args()
    photos = [draw_crowd(seed) for seed in range(args.photos)]
    with tempfile.TemporaryDirectory() as folder:
        archive = export(args.trained, Options(output=Path(folder)))
        shutil.unpack_archive(archive, Path(folder) / "unpacked", "zip")
        service = Service.load(Path(folder) / "unpacked")
        service.warm_up()
        rows = [measure(service, side, photos) for side in SIDES]
    where = machine()
    title = f"{args.trained.stem}, {args.photos} photos of {COLUMNS * ROWS} balloons\n{describe(where)}"
    text = f"{title}\n\n{table(rows)}"
    save(args.output, "bench_tiles", {"machine": where, "rows": rows}, text)
    print(f"{text}\n\n{args.output}")
    return 0


def draw_crowd(seed: int) -> tuple[bytes, list[dict[str, Any]]]:
    """A JPEG, and the COCO RLE of each balloon in it."""
    rng = np.random.default_rng(seed)
    picture = draw_scene(seed, WIDTH, HEIGHT, empty=True)[0].astype(np.float32) / 255
    truth = []
    for i in range(COLUMNS * ROWS):
        row, column = divmod(i, COLUMNS)
        center = (np.array([column, row]) + rng.uniform(0.2, 0.8, 2)) * (WIDTH / COLUMNS, HEIGHT / ROWS)
        mask = balloon_outline(rng, center, rng.uniform(5, 16), WIDTH, HEIGHT)
        paint_balloon(rng, picture, mask, mask)
        truth.append(encode_mask(mask))
    pixels = (np.clip(picture[..., ::-1], 0, 1) * 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, 92))[1].tobytes(), truth


def measure(service: Service, side: int, photos: list[tuple[bytes, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Recall and precision over all photos, in percent, and the seconds of a photo."""
    right = shown = 0
    start = time.perf_counter()
    for photo, truth in photos:
        request = {"image": photo, "tiles": str(side).encode(), "output": b"coco"}
        (answer,) = service.answer([Request(request, "multipart/form-data; boundary=x")])
        results = json.loads(answer.body)
        shown += len(results)
        right += found(results, truth)
    seconds = (time.perf_counter() - start) / len(photos)
    total = sum(len(truth) for _, truth in photos)
    return {
        "tiles": side or "off",
        "runs of the network": 1 + len(windows(HEIGHT, WIDTH, side)) if side else 1,
        "found %": round(100 * right / total, 1),
        "of those shown, right %": round(100 * right / max(1, shown), 1),
        "seconds": round(seconds, 2),
    }


def found(results: list[dict[str, Any]], truth: list[dict[str, Any]]) -> int:
    """How many of ``truth`` have a mask of their own; the best-scoring result chooses first."""
    if not results:
        return 0
    overlaps = coco_mask.iou([each["segmentation"] for each in results], truth, [0] * len(truth))
    count = 0
    for row in overlaps:
        best = int(row.argmax())
        if row[best] >= 0.5:
            overlaps[:, best] = 0
            count += 1
    return count


if __name__ == "__main__":
    raise SystemExit(main())
