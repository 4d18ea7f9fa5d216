"""Quantize an archive's trunk to 8 bits, try it, and predict with it: the steps of ``maskrcnn export --int8``.

    python -m handler.build.quantize calibrate FOLDER PHOTOS     write openvino/trunk_int8.xml and .bin
    python -m handler.build.quantize trial FOLDER                run it over a grid of shapes; it may crash
    python -m handler.build.quantize predict FOLDER PHOTOS PRECISION RESULTS    write COCO results of the photos

``PHOTOS`` is a JSON file with a list of ``{"id": …, "file_name": …}``. This is nncf's post-training quantization: the
photos only show which range of values each layer must hold.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge

from handler.api.options import Options
from handler.api.responses import coco_results
from handler.imaging.decode import decode_image
from handler.model.engines import INT8_IR_NAME, IR_NAME
from handler.model.engines.openvino_engine import buckets, import_openvino
from handler.model.predictor import Predictor
from handler.model.preprocess import resize

_SEED = 0


def calibrate(folder: Path, photos: list[dict[str, Any]]) -> None:
    """Quantize the trunk in ``folder``, with the ranges of values that ``photos`` produce."""
    import_openvino()
    import nncf
    import openvino as ov

    logging.getLogger("nncf").setLevel(logging.ERROR)
    predictor = Predictor.load(folder, device="cpu", precision="fp32", engine="torch")
    model = ov.Core().read_model(folder / IR_NAME)
    batches = [batch.numpy() for batch in _batches(predictor, photos)]
    quantized = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
    ov.save_model(quantized, folder / INT8_IR_NAME, compress_to_fp16=False)


def _batches(predictor: Predictor, photos: list[dict[str, Any]]) -> Iterator[torch.Tensor]:
    """Each photo as the trunk's input, (1, H, W, 3) float32, padded to its bucket."""
    short, long = predictor.short_side, predictor.long_side
    shapes = buckets(short, long, predictor.normalize.multiple)
    for photo in photos:
        image = _read(photo)
        resized = resize(image, ResizeShortestEdge.get_output_shape(*image.shape[:2], short, long))
        height, width = next(s for s in shapes if s[0] >= resized.shape[0] and s[1] >= resized.shape[1])
        batch = predictor.normalize([resized]).permute(0, 2, 3, 1)
        padding = (0, 0, 0, width - batch.shape[2], 0, height - batch.shape[1])
        yield torch.nn.functional.pad(batch, padding)


def trial(folder: Path) -> int:
    """Run the int8 predictor over a grid of shapes; return their number."""
    predictor = Predictor.load(folder, device="cpu", precision="int8")
    random = np.random.default_rng(_SEED)
    sides = [predictor.long_side * step // 4 for step in range(1, 5)]
    for height in sides:
        for width in sides:
            (found,) = predictor.predict([random.integers(0, 256, (height, width, 3), np.uint8)])
            if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
                raise ValueError(f"the int8 model gives NaN or infinity at {height} × {width}")
    return len(sides) ** 2


def predict(folder: Path, photos: list[dict[str, Any]], precision: str) -> list[dict[str, Any]]:
    """COCO results of ``photos``, at most 100 each, with the photos' ids as ``image_id``."""
    predictor = Predictor.load(folder, device="cpu", precision=precision, engine="openvino")
    results = []
    for photo in photos:
        image = _read(photo)
        (found,) = predictor.predict([image])
        own = coco_results(found, Options(), *image.shape[:2])[:100]
        results += [{**result, "image_id": photo["id"]} for result in own]
    return results


def _read(photo: dict[str, Any]) -> np.ndarray:
    return decode_image(Path(photo["file_name"]).read_bytes(), max_pixels=2**26)


def main(command: str, folder: str, *rest: str) -> None:
    photos = json.loads(Path(rest[0]).read_text(encoding="utf-8")) if rest else []
    if command == "calibrate":
        calibrate(Path(folder), photos)
    elif command == "trial":
        print(trial(Path(folder)))
    elif command == "predict":
        Path(rest[2]).write_text(json.dumps(predict(Path(folder), photos, rest[1])), encoding="utf-8")
    else:
        raise SystemExit(f"there is no command {command!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
