"""VGG Image Annotator (VIA) 1 and 2: annotation exports and project files.

https://www.robots.ox.ac.uk/~vgg/software/via/ . VIA's coordinates are whole pixels; half a pixel is added, as in
Detectron2's balloon tutorial, because COCO's coordinates are continuous (the first pixel's center is 0.5).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.dataset import Photo
from finetune.data.formats.shapes import ellipse, number, rectangle, refuse
from finetune.data.formats.source import Annotations, Options, SourceFolder, SourceObject, fits
from finetune.data.masks import single_polygon
from finetune.errors import UserError
from finetune.files import write_json

TITLE = "VIA"
PHOTOS = "{split}"
CONTENT = "regions by photo"
ADVICE = "export the annotations as JSON, next to the photos"
ATTRIBUTE = "class"  # the region attribute that ``write`` uses

Regions = dict[str, list[dict[str, Any]]]


def find(folder: SourceFolder, *, sniff: bool = False) -> Iterator[tuple[Path, Any]]:
    """See ``Format``."""
    return folder.documents(_is_via, sniff=sniff)


def _is_via(data: Any) -> bool:
    if fits(data, _via_img_metadata=dict):
        return True
    return isinstance(data, dict) and bool(data) and all(fits(entry, filename=str) for entry in data.values())


def read(folder: SourceFolder, found: Iterator[tuple[Path, Any]], options: Options) -> Annotations:
    """See ``Format``."""
    files = {path: read_via(path, data) for path, data in found}
    every = [region for photos in files.values() for regions in photos.values() for region in regions]
    attribute = None if options.class_name else _attribute(every, options.class_attribute, folder.path)
    photos = []
    for path, regions_of in files.items():
        for name, regions in regions_of.items():
            objects = [_object(i, region, attribute) for i, region in enumerate(regions, start=1)]
            photos.append(folder.photo(name, path, objects))
    return Annotations(photos, list(files))


def read_via(path: Path, data: Any) -> Regions:
    """Photo name → regions, each a dict with ``shape_attributes`` and ``region_attributes``.

    Raises:
        UserError: it lists a photo twice, or has damaged regions.
    """
    photos: Regions = {}
    for entry in data.get("_via_img_metadata", data).values():
        if not fits(entry, filename=str):
            raise UserError(f"{path} lists a photo without a filename: export again")
        regions = entry.get("regions") or []  # VIA 1 writes a dict, VIA 2 a list
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(regions, list) or not all(
            fits(each, shape_attributes=dict, region_attributes=dict | None) for each in regions
        ):
            raise UserError(f"{path}: the regions of {entry['filename']} are damaged: export again")
        if entry["filename"] in photos:
            raise UserError(f"{path} lists {entry['filename']} twice: remove one of the two in VIA")
        photos[entry["filename"]] = regions
    return photos


def _attribute(regions: list[dict[str, Any]], wanted: str | None, path: Path) -> str:
    """The region attribute that names the class: the one asked for, or the only one there is."""
    found = sorted({key for region in regions for key in region.get("region_attributes") or {}})
    if wanted is None and len(found) == 1:
        return found[0]
    there = f"the regions have: {', '.join(found)}" if found else "the regions have none"
    if wanted is None:
        raise UserError(f"give --class NAME for one class, or --class-attribute NAME for several ({there})")
    if wanted not in found:
        raise UserError(f"no region in {path} has the attribute {wanted!r}: choose another one ({there})")
    return wanted


def _object(i: int, region: Mapping[str, Any], attribute: str | None) -> SourceObject:
    shape = region["shape_attributes"]
    label = f"{shape.get('name', 'shape')} {i}"
    if attribute is None:
        return SourceObject(label, "", partial(_outline, shape))
    value = (region.get("region_attributes") or {}).get(attribute)
    if isinstance(value, dict):  # a checkbox: {"cat": true, "dog": false}
        ticked = [key for key, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else None
    if value is None or not str(value).strip():
        return SourceObject(label, "", refuse(f"has no (single) value of the attribute {attribute!r}"))
    return SourceObject(label, str(value).strip(), partial(_outline, shape))


def _outline(shape: Mapping[str, Any], width: int, height: int) -> list[np.ndarray]:
    return [shape_points(shape)]


def shape_points(shape: Mapping[str, Any]) -> np.ndarray:
    """The outline (N, 2) of a VIA shape: polygon, polyline (closed), rect, circle or ellipse, in continuous pixels.

    Raises:
        ValueError: what is wrong with it, as the end of a sentence that begins with the shape's name.
    """
    kind = shape.get("name")
    try:
        if kind in ("polygon", "polyline"):
            xs, ys = shape["all_points_x"], shape["all_points_y"]
            if not isinstance(xs, list) or not isinstance(ys, list):
                raise ValueError("has coordinates that are no lists")
            if len(xs) != len(ys):
                raise ValueError(f"has {len(xs)} x but {len(ys)} y coordinates")
            points = [(number(x), number(y)) for x, y in zip(xs, ys, strict=True)]
            return np.array(points).reshape(-1, 2) + 0.5
        if kind == "rect":
            x, y, width, height = (number(shape[key]) for key in ("x", "y", "width", "height"))
            return rectangle(x, y, x + width, y + height) + 0.5
        if kind in ("circle", "ellipse"):
            rx, ry = (number(shape["r" if kind == "circle" else key]) for key in ("rx", "ry"))
            theta = number(shape.get("theta", 0))  # radians, since VIA 2.0.9
            return ellipse((number(shape["cx"]), number(shape["cy"])), (rx, ry), theta) + 0.5
    except KeyError as error:
        raise ValueError(f"has no {error.args[0]}") from None
    raise ValueError(f"is of the kind {kind!r}, which has no area")


def write(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
    """See ``Format``. A mask, or an object of several parts, becomes one polygon with bridges of no width."""
    for split, photos in splits.items():
        entries = {}
        for photo in photos:
            regions = []
            for each in photo.instances:
                points = single_polygon(each.segmentation, photo.width, photo.height) - 0.5
                x, y = points.T.tolist()
                shape = {"name": "polygon", "all_points_x": x, "all_points_y": y}
                attributes = {ATTRIBUTE: classes[each.class_id]}
                regions.append({"shape_attributes": shape, "region_attributes": attributes})
            size = (root / split / photo.name).stat().st_size
            entry = {"filename": photo.name, "size": size, "regions": regions, "file_attributes": {}}
            entries[f"{photo.name}{size}"] = entry
        write_json(root / split / "via_region_data.json", entries)
