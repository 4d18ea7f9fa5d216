"""Detections and options → what goes over the wire: JSON, COCO results, or a PNG."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.ops import nms

from handler.api.errors import Unprocessable
from handler.api.options import IMAGE_OUTPUTS, OPTIONS, Options
from handler.api.settings import Settings
from handler.imaging import masks, render
from handler.model import Detections

JSON_TYPE = "application/json"
PNG_TYPE = "image/png"


@dataclass(frozen=True)
class Content:
    """A body, its media type, and the number of instances in it."""

    body: bytes
    content_type: str
    instances: int


def select(detections: Detections, options: Options) -> Detections:
    """The instances that a request asked for, still by falling score.

    Suppression comes first: a threshold, or a choice of classes, then brings no other instance to light, and
    ``finetune.evaluation.operating_point`` counts by the same rule.
    """
    keep = np.isfinite(detections.boxes).all(axis=1)
    if options.suppression_iou is not None:
        finite = np.flatnonzero(keep)
        boxes, scores = (torch.from_numpy(values[finite]) for values in (detections.boxes, detections.scores))
        keep[:] = False
        keep[finite[nms(boxes, scores, options.suppression_iou)]] = True
    thresholds = [options.class_thresholds.get(int(i), options.score_threshold) for i in detections.class_ids]
    keep &= detections.scores >= np.array(thresholds)
    if options.classes is not None:
        keep &= np.isin(detections.class_ids, list(options.classes))
    return detections[np.flatnonzero(keep)[: options.max_detections]]


def encode(
    image: np.ndarray,
    size: tuple[int, int],
    detections: Detections,
    options: Options,
    card: dict[str, Any],
    timings_ms: dict[str, float],
) -> Content:
    """The answer to one request.

    Args:
        image: (H, W, 3) uint8 RGB; only an answer in pixels looks at it.
        size: (H, W) of the photo.
        detections: all of them; ``options`` selects.
        card: the archive's ``archive.json``.
        timings_ms: milliseconds by stage; ``postprocess`` is added to it.
    """
    start = time.perf_counter()
    height, width = size
    chosen = select(detections, options)
    document: Any = None
    if options.output in IMAGE_OUTPUTS:
        picture = render.render(options.output, image, chosen, card["classes"])
    elif options.output == "coco":
        document = coco_results(chosen, options, height, width)
    else:
        document = {"model": model_card(card), **prediction(chosen, options, card["classes"], height, width)}
        document["timings_ms"] = timings_ms
    timings_ms["postprocess"] = round((time.perf_counter() - start) * 1e3, 2)
    if document is None:
        return Content(picture, PNG_TYPE, len(chosen))
    return Content(to_json(document), JSON_TYPE, len(chosen))


def prediction(
    detections: Detections, options: Options, classes: Sequence[str], height: int, width: int
) -> dict[str, Any]:
    """``image``, ``instances`` and ``mask_fraction`` of a prediction."""
    covered = np.zeros((height, width), bool)
    canvas = np.zeros((height, width), np.uint8) if options.mask_format == "png" else None
    instances = []
    for i, crop in enumerate(masks.paste_masks(detections, height, width)):
        covered[crop.window] |= crop.bits
        class_id = int(detections.class_ids[i])
        instance: dict[str, Any] = {
            "id": i,
            "class_id": class_id,
            "class_name": classes[class_id],
            "score": round(float(detections.scores[i]), 5),
            "box": [round(float(v), 2) for v in detections.boxes[i]],
            "area": crop.area,
        }
        if options.mask_format == "rle":
            instance["mask"] = masks.crop_to_rle(crop, height, width)
        elif options.mask_format == "polygon":
            instance["mask"] = {"size": [height, width], "polygons": masks.crop_to_polygons(crop)}
        elif canvas is not None:
            instance["mask"] = {"size": [height, width], "png": masks.crop_to_png(crop, canvas)}
        instances.append(instance)
    return {
        "image": {"width": width, "height": height},
        "instances": instances,
        "mask_fraction": round(float(np.count_nonzero(covered)) / covered.size, 6),
    }


def coco_results(detections: Detections, options: Options, height: int, width: int) -> list[dict[str, Any]]:
    """COCO's result format: XYWH boxes, category ids from 1; ``image_id`` is 0, for the caller to replace."""
    results = []
    for i, crop in enumerate(masks.paste_masks(detections, height, width)):
        x0, y0, x1, y1 = (float(v) for v in detections.boxes[i])
        result: dict[str, Any] = {
            "image_id": 0,
            "category_id": int(detections.class_ids[i]) + 1,
            "bbox": [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(float(detections.scores[i]), 5),
        }
        if options.mask_format == "rle":
            result["segmentation"] = masks.crop_to_rle(crop, height, width)
        elif options.mask_format == "polygon":
            result["segmentation"] = masks.crop_to_polygons(crop)
        results.append(result)
    return results


def to_json(document: object) -> bytes:
    """Compact UTF-8 JSON; NaN, which JSON does not have, is an error."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def check_length(content: Content, max_bytes: int) -> None:
    """Refuse an answer that TorchServe could not send: it kills a worker whose response is too long."""
    if len(content.body) > max_bytes:
        raise Unprocessable(
            "response_too_large",
            f"The answer has {len(content.body):,} bytes, and this server sends at most {max_bytes:,}; "
            "send a smaller image, or ask for output json with mask_format rle.",
            "output",
        )


def model_card(card: dict[str, Any]) -> dict[str, Any]:
    """The ``model`` part of a prediction."""
    return {name: card.get(name) for name in ("name", "version", "weights_sha256")}


def describe(card: dict[str, Any], settings: Settings, running: dict[str, Any]) -> dict[str, Any]:
    """The model's description, as ``GET /models/maskrcnn?customized=true`` answers it.

    Args:
        card: the archive's ``archive.json``.
        running: ``engine``, ``precision``, ``device`` and ``threads`` of the loaded model.
    """
    defaults = option_defaults(settings.options, card.get("classes") or [])
    return {
        "model": model_card(card) | {"backbone": card.get("backbone")},
        "classes": card.get("classes"),
        "limits": settings.limits,
        "options": [
            {"name": o.name, "values": o.values, "default": defaults[o.name], "meaning": o.meaning}
            for o in OPTIONS
        ],
        "evaluation": card.get("evaluation") or None,
        "served": card.get("served"),
        "operating_point": card.get("operating_point"),
        "running": running,
    }


def option_defaults(options: Options, classes: Sequence[str]) -> dict[str, Any]:
    """The options as a client would write them."""
    chosen = "all" if options.classes is None else [classes[i] for i in sorted(options.classes)]
    return {option.name: getattr(options, option.name) for option in OPTIONS} | {"classes": chosen}
