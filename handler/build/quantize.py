"""Quantize an archive's trunk to 8 bits, try it and time it: ``python quantize.py FOLDER PHOTOS PRECISION ANSWER``.

``maskrcnn export --data`` runs this on the staged archive. ``PHOTOS`` is a JSON file with a list of ``{"id": …,
"file_name": …}``; ``ANSWER`` is the JSON file for the times in ``PRECISION`` and in int8. This is nncf's post-training
quantization: the photos only show which range of values each layer must hold.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.api.settings import MAX_PIXELS
from handler.imaging.decode import decode_image
from handler.model.engines import INT8_IR_NAME, IR_NAME
from handler.model.engines.openvino_engine import Shape, buckets, import_openvino
from handler.model.predictor import Predictor
from handler.model.preprocess import resize

_TIMED_PHOTOS = 5


def calibrate(folder: Path, photos: list[dict[str, Any]]) -> None:
    """Write the 8-bit trunk into ``folder``, with the ranges of values that ``photos`` produce."""
    import_openvino()
    import nncf
    import openvino as ov

    logging.getLogger("nncf").setLevel(logging.ERROR)
    predictor = Predictor.load(folder, device="cpu", precision="fp32", engine="torch")
    model = ov.Core().read_model(folder / IR_NAME)
    batches = nncf.Dataset(photos, partial(_trunk_input, predictor))
    quantized = nncf.quantize(model, batches, subset_size=len(photos))
    ov.save_model(quantized, folder / INT8_IR_NAME, compress_to_fp16=False)


def _trunk_input(predictor: Predictor, photo: dict[str, Any]) -> np.ndarray:
    """A photo as the trunk's input, (1, H, W, 3) float32, padded to its bucket."""
    image = _read(photo)
    resized = resize(image, predictor.network_shape(*image.shape[:2]))
    height, width = next(
        s for s in _shapes(predictor) if s[0] >= resized.shape[0] and s[1] >= resized.shape[1]
    )
    batch = predictor.normalize([resized]).permute(0, 2, 3, 1)
    padding = (0, 0, 0, width - batch.shape[2], 0, height - batch.shape[1])
    return torch.nn.functional.pad(batch, padding).numpy()


def trial(predictor: Predictor) -> None:
    """Run the 8-bit predictor at each shape that it is compiled for: OpenVINO has crashed on such a model."""
    for height, width in _shapes(predictor):
        predictor.predict([np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)])


def median_times(predictors: dict[str, Predictor], photos: list[dict[str, Any]]) -> dict[str, float]:
    """Median milliseconds a photo. The predictors take turns, so that another program's load slows all of them."""
    images = [_read(photo) for photo in photos[:_TIMED_PHOTOS]]
    milliseconds: dict[str, list[float]] = {name: [] for name in predictors}
    for image in [images[0], *images]:  # the first call warms up
        for name, predictor in predictors.items():
            start = time.perf_counter()
            predictor.predict([image])
            milliseconds[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(statistics.median(times[1:]), 1) for name, times in milliseconds.items()}


def _shapes(predictor: Predictor) -> list[Shape]:
    return buckets(predictor.short_side, predictor.long_side, predictor.normalize.multiple)


def _read(photo: dict[str, Any]) -> np.ndarray:
    return decode_image(Path(photo["file_name"]).read_bytes(), MAX_PIXELS)


if __name__ == "__main__":
    archive, photo_list, floating, answer = sys.argv[1:]
    calibrators = json.loads(Path(photo_list).read_text(encoding="utf-8"))
    calibrate(Path(archive), calibrators)
    both = {name: Predictor.load(Path(archive), device="cpu", precision=name) for name in (floating, "int8")}
    trial(both["int8"])
    Path(answer).write_text(json.dumps(median_times(both, calibrators)), encoding="utf-8")
