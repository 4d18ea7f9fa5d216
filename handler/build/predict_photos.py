"""Predict photos with an unpacked archive as a server would: ``python predict_photos.py FOLDER PHOTOS ANSWER``.

``maskrcnn export`` and ``tune`` run this with the archive's own code alone, to try an archive and to measure it.
``PHOTOS`` is a JSON file with a list of ``{"id": …, "file_name": …}``; ``ANSWER`` is the JSON file to write. With a
fourth argument, requests are timed for that many seconds.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from handler.api.options import Options
from handler.api.settings import MAX_PIXELS
from handler.service import Request, Service

_TIMED_PHOTOS = 12  # up to twice as many, spread over all


def predict_photos(folder: Path, photos: list[dict[str, Any]], seconds: float = 0) -> dict[str, Any]:
    """Predict each photo by itself, in the precision and on the device that a server takes here.

    Returns:
        ``precision``, ``engine`` and ``device``; ``results``, in COCO's format with the photos' ids as ``image_id``.
        With ``seconds`` also ``threads``, and ``milliseconds`` of requests without options for so long: a list for
        each round over a few photos.

    Raises:
        HandlerError, ValueError: the archive cannot be loaded, or it answers a photo with an error.
    """
    service = Service.load(folder)
    # COCO's AP counts photos that are too large for a request as well, and all detections
    usual = replace(service.settings, max_image_bytes=sys.maxsize, max_image_pixels=MAX_PIXELS)
    service.settings = replace(usual, options=Options(score_threshold=0, output="coco"))
    results: list[dict[str, Any]] = []
    for photo in photos:
        image = Path(photo["file_name"]).read_bytes()
        (answer,) = service.answer([Request({"image": image}, id="export")])
        if answer.status != 200:
            raise ValueError(f"the archive answers {photo['file_name']} with {answer.reason}")
        results += [result | {"image_id": photo["id"]} for result in json.loads(answer.body)]
    running = {name: str(getattr(service.predictor, name)) for name in ("precision", "engine", "device")}
    if not seconds:
        return running | {"results": results}
    service.settings = usual

    def time_request(photo: dict[str, Any]) -> float:
        image, start = Path(photo["file_name"]).read_bytes(), time.perf_counter()
        service.answer([Request({"image": image}, id="timed")])
        return 1e3 * (time.perf_counter() - start)

    rounds, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        rounds.append([time_request(photo) for photo in photos[:: max(1, len(photos) // _TIMED_PHOTOS)]])
    return running | {"results": results, "threads": service.predictor.threads, "milliseconds": rounds}


if __name__ == "__main__":
    folder, photos, answer = map(Path, sys.argv[1:4])
    predicted = predict_photos(
        folder, json.loads(photos.read_text(encoding="utf-8")), *map(float, sys.argv[4:])
    )
    answer.write_text(json.dumps(predicted), encoding="utf-8")
