"""labelme (https://github.com/wkentaro/labelme): one JSON file per photo.

Read: polygon, rectangle, oriented_rectangle, circle, linestrip (closed) and mask; shapes of one ``group_id`` are one
object. ``imagePath`` is as the annotator's machine wrote it, also an absolute Windows path. Coordinates are continuous
pixels of the upright photo.
"""

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.dataset import Photo
from finetune.data.formats.source import (
    Annotations,
    Options,
    SourceFolder,
    SourceObject,
    closed_curve,
    found_files,
    joined,
    pairs,
    rectangle,
)
from finetune.data.masks import crop, to_mask
from finetune.errors import UserError
from finetune.files import write_json

TITLE = "labelme"
PHOTOS = "{split}"


def recognize(folder: SourceFolder) -> str | None:
    """See ``Format``."""
    return found_files(folder, _is_labelme, "shapes")


def _is_labelme(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("shapes"), list) and "imagePath" in data


def read(folder: SourceFolder, options: Options) -> Annotations:
    """See ``Format``."""
    photos, files = [], []
    for path, data in folder.documents(_is_labelme):
        if not isinstance(data["imagePath"], str) or not all(
            isinstance(shape, dict) for shape in data["shapes"]
        ):
            raise UserError(f"{path} is damaged: save it again in labelme")
        size = data.get("imageWidth"), data.get("imageHeight")
        known = isinstance(size[0], int) and isinstance(size[1], int)
        photos.append(
            folder.photo(data["imagePath"], path, _objects(data["shapes"]), size=size if known else None)
        )
        files.append(path)
    if not files:
        raise UserError(f"{folder.path} holds no labelme file: save the annotations next to the photos")
    return Annotations(photos, files)


def _objects(shapes: Sequence[Mapping[str, Any]]) -> list[SourceObject]:
    """Each shape an object, those of one label and one group together."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    labels: dict[Any, str] = {}
    for i, shape in enumerate(shapes, start=1):
        group = shape.get("group_id")
        key = i if group is None else (str(group), str(shape.get("label")))
        groups.setdefault(key, []).append(shape)
        labels.setdefault(key, f"{shape.get('shape_type') or 'polygon'} {i}")
    return [
        SourceObject(labels[key], str(parts[0].get("label") or "").strip(), partial(_outline, parts))
        for key, parts in groups.items()
    ]


def _outline(parts: Sequence[Mapping[str, Any]], width: int, height: int) -> Any:
    return joined([_shape(part, width, height) for part in parts], width, height)


def _shape(shape: Mapping[str, Any], width: int, height: int) -> np.ndarray:
    """A polygon (N, 2), or for a mask (H, W) bool."""
    kind = shape.get("shape_type") or "polygon"
    points = pairs(shape.get("points"))
    if kind in ("polygon", "linestrip", "oriented_rectangle") or (kind == "rectangle" and len(points) == 4):
        return points
    if kind not in ("rectangle", "circle", "mask"):
        raise ValueError(f"is of the kind {kind!r}, which has no area")
    if len(points) != 2:
        raise ValueError(f"has {len(points)} points and needs 2")
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return rectangle(x0, y0, x1, y1)
    if kind == "circle":
        radius = float(np.hypot(x1 - x0, y1 - y0))
        return closed_curve((x0, y0), (radius, radius))
    mask = np.zeros((height, width), dtype=bool)
    part = _decode_png(shape.get("mask"))
    x, y = round(float(x0)), round(float(y0))
    if x < 0 or y < 0 or y + part.shape[0] > height or x + part.shape[1] > width:
        raise ValueError(
            f"has a mask of {part.shape[1]} x {part.shape[0]} pixels that reaches out of the photo"
        )
    mask[y : y + part.shape[0], x : x + part.shape[1]] = part
    return mask


def _decode_png(text: Any) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as image:
            if image.width * image.height > 80_000_000:
                raise ValueError("has a mask of too many pixels")
            return np.asarray(image.convert("L")) > 0
    except (TypeError, binascii.Error, OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError("has a mask that is not a PNG in base64") from None


def write(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
    """See ``Format``: polygons stay polygons (those of one object share a group), masks stay masks."""
    for split, photos in splits.items():
        for photo in photos:
            shapes = []
            for group, each in enumerate(photo.instances):
                parts = _parts(each.segmentation, photo.width, photo.height)
                for part in parts:
                    group_id = group if len(parts) > 1 else None
                    shapes.append({"label": classes[each.class_id], "group_id": group_id, "flags": {}} | part)
            content: dict[str, Any] = {
                "version": "5.5.0",
                "flags": {},
                "shapes": shapes,
                "imagePath": photo.name,
                "imageData": None,
                "imageHeight": photo.height,
                "imageWidth": photo.width,
            }
            write_json(root / split / f"{Path(photo.name).stem}.json", content)


def _parts(segmentation: Any, width: int, height: int) -> list[dict[str, Any]]:
    if isinstance(segmentation, list):
        return [
            {"shape_type": "polygon", "points": np.reshape(polygon, (-1, 2)).tolist(), "mask": None}
            for polygon in segmentation
        ]
    x0, y0, part = crop(to_mask(segmentation, width, height))
    x1, y1 = x0 + part.shape[1] - 1, y0 + part.shape[0] - 1
    buffer = io.BytesIO()
    Image.fromarray(part.astype(np.uint8) * 255).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return [{"shape_type": "mask", "points": [[x0, y0], [x1, y1]], "mask": encoded}]
