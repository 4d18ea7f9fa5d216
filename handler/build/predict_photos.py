"""Predict photos with an unpacked archive as a server would: ``python predict_photos.py FOLDER PHOTOS ANSWER``.

``maskrcnn export`` runs this with the archive's own code alone, to try an archive and to measure it. ``PHOTOS`` is a
JSON file with a list of ``{"id": …, "file_name": …}``; ``ANSWER`` is the JSON file to write.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from handler.api.options import Options
from handler.api.settings import PILLOW_MAX_PIXELS
from handler.service import Request, Service


def predict_photos(folder: Path, photos: list[dict[str, Any]]) -> dict[str, Any]:
    """Predict each photo by itself, in the precision and on the device that a server takes here.

    Returns:
        ``precision``, ``engine`` and ``device``; ``results``, in COCO's format with the photos' ids as ``image_id``.

    Raises:
        HandlerError, ValueError: the archive cannot be loaded, or it answers a photo with an error.
    """
    service = Service.load(folder)
    # COCO's AP counts all detections, and those of photos that are too large for a request as well
    service.settings = replace(
        service.settings,
        options=Options(score_threshold=0, output="coco"),
        max_image_bytes=sys.maxsize,
        max_image_pixels=PILLOW_MAX_PIXELS,
    )
    results: list[dict[str, Any]] = []
    for photo in photos:
        image = Path(photo["file_name"]).read_bytes()
        (answer,) = service.answer([Request({"image": image}, id="export")])
        if answer.status != 200:
            raise ValueError(f"the archive answers {photo['file_name']} with {answer.reason}")
        results += [result | {"image_id": photo["id"]} for result in json.loads(answer.body)]
    running = {name: str(getattr(service.predictor, name)) for name in ("precision", "engine", "device")}
    return running | {"results": results}


if __name__ == "__main__":
    folder, photos, answer = map(Path, sys.argv[1:])
    predicted = predict_photos(folder, json.loads(photos.read_text(encoding="utf-8")))
    answer.write_text(json.dumps(predicted), encoding="utf-8")
