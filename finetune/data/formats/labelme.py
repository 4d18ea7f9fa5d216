"""labelme (https://github.com/wkentaro/labelme): one JSON file per photo.

Read: polygon, rectangle, oriented_rectangle, circle, linestrip (closed) and mask; shapes of one ``group_id`` are one
object. ``imagePath`` is as the annotator's machine wrote it, also an absolute Windows path. Coordinates are continuous
pixels of the upright photo.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.dataset import Photo
from finetune.data.formats.shapes import ellipse, join_groups, pairs, paste, rectangle
from finetune.data.formats.source import Annotations, Options, SourceFolder, SourceObject, fits
from finetune.data.masks import crop, to_mask
from finetune.errors import UserError
from finetune.files import write_json

TITLE = "labelme"
PHOTOS = "{split}"
ADVICE = "save the annotations next to the photos"

find = partial(SourceFolder.documents, is_wanted=lambda data: fits(data, shapes=list) and "imagePath" in data)


def read(folder: SourceFolder, found: Iterator[tuple[Path, Any]], options: Options) -> Annotations:
    """See ``Format``."""
    photos = []
    for path, data in found:
        name, shapes = data["imagePath"], data["shapes"]
        if not isinstance(name, str) or not all(isinstance(shape, dict) for shape in shapes):
            raise UserError(f"{path} is damaged: save it again in labelme")
        objects = join_groups((shape.get("group_id"), _object(i, shape)) for i, shape in enumerate(shapes, 1))
        size = data.get("imageWidth"), data.get("imageHeight")
        photos.append(folder.photo(name, path, objects, size=size))
    return Annotations(photos)


def _object(i: int, shape: Mapping[str, Any]) -> SourceObject:
    label = f"{shape.get('shape_type') or 'polygon'} {i}"
    return SourceObject(label, str(shape.get("label") or "").strip(), partial(_outline, shape))


def _outline(shape: Mapping[str, Any], width: int, height: int) -> list[np.ndarray] | np.ndarray:
    kind = shape.get("shape_type") or "polygon"
    points = pairs(shape.get("points"))
    if kind in ("polygon", "linestrip", "oriented_rectangle") or (kind == "rectangle" and len(points) == 4):
        return [points]
    if kind not in ("rectangle", "circle", "mask"):
        raise ValueError(f"is of the kind {kind!r}, which has no area")
    if len(points) != 2:
        raise ValueError(f"has {len(points)} points and needs 2")
    (x0, y0), (x1, y1) = points.tolist()
    if kind == "rectangle":
        return [rectangle(x0, y0, x1, y1)]
    if kind == "circle":
        radius = np.hypot(x1 - x0, y1 - y0)
        return [ellipse((x0, y0), (radius, radius))]
    return paste(_decode_png(shape.get("mask")), round(x0), round(y0), width, height)


def _decode_png(text: Any) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as image:
            return np.asarray(image.convert("L")) > 0
    except (TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError("has a mask that is not a PNG in base64") from None


def write(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
    """See ``Format``: polygons stay polygons (those of one object share a group), masks stay masks."""
    for split, photos in splits.items():
        for photo in photos:
            shapes = []
            for group, each in enumerate(photo.instances):
                parts = _parts(each.segmentation, photo.width, photo.height)
                group_id = group if len(parts) > 1 else None
                common: dict[str, Any] = {"label": classes[each.class_id], "flags": {}, "group_id": group_id}
                shapes += [common | part for part in parts]
            content: dict[str, Any] = {"version": "5.5.0", "flags": {}, "shapes": shapes}
            content |= {"imagePath": photo.name, "imageData": None}
            content |= {"imageHeight": photo.height, "imageWidth": photo.width}
            write_json(root / split / f"{Path(photo.name).stem}.json", content)


def _parts(segmentation: Any, width: int, height: int) -> list[dict[str, Any]]:
    if isinstance(segmentation, list):
        polygons = [np.reshape(polygon, (-1, 2)).tolist() for polygon in segmentation]
        return [{"shape_type": "polygon", "points": points, "mask": None} for points in polygons]
    x0, y0, part = crop(to_mask(segmentation, width, height))
    x1, y1 = x0 + part.shape[1] - 1, y0 + part.shape[0] - 1
    buffer = io.BytesIO()
    Image.fromarray(part.astype(np.uint8) * 255).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return [{"shape_type": "mask", "points": [[x0, y0], [x1, y1]], "mask": encoded}]
