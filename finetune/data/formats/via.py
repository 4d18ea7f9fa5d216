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
from finetune.data.formats.shapes import ellipse, number, pairs, rectangle, refuse
from finetune.data.formats.source import Annotations, Options, SourceFolder, SourceObject, fits
from finetune.data.masks import single_polygon
from finetune.errors import UserError
from finetune.files import write_json

TITLE = "VIA"
PHOTOS = "{split}"
ADVICE = "export the annotations as JSON, next to the photos"


def _is_via(data: Any) -> bool:
    if fits(data, _via_img_metadata=dict):
        return True
    return isinstance(data, dict) and bool(data) and all(fits(entry, filename=str) for entry in data.values())


find = partial(SourceFolder.documents, is_wanted=_is_via)


def read(folder: SourceFolder, found: Iterator[tuple[Path, Any]], options: Options) -> Annotations:
    """See ``Format``."""
    every = [(path, *photo) for path, data in found for photo in read_via(path, data).items()]
    attribute = None
    if not options.class_name:
        regions = [region for _, _, regions in every for region in regions]
        attribute = _attribute(regions, options.class_attribute, folder.path)
    photos = []
    for path, name, regions in every:
        objects = [_object(i, region, attribute) for i, region in enumerate(regions, start=1)]
        photos.append(folder.photo(name, path, objects))
    return Annotations(photos)


def read_via(path: Path, data: Any) -> dict[str, list[dict[str, Any]]]:
    """Photo name → regions, each a dict with ``shape_attributes`` and ``region_attributes``.

    Raises:
        UserError: it lists a photo twice, or has damaged regions.
    """
    photos: dict[str, list[dict[str, Any]]] = {}
    for entry in data.get("_via_img_metadata", data).values():
        if not fits(entry, filename=str):
            raise UserError(f"{path} lists a photo without a filename: export again")
        name, regions = entry["filename"], entry.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions  # VIA 1 writes a dict
        if not isinstance(regions, list) or not all(
            fits(each, shape_attributes=dict, region_attributes=dict | None) for each in regions
        ):
            raise UserError(f"{path}: the regions of {name} are damaged: export again")
        if name in photos:
            raise UserError(f"{path} lists {name} twice: remove one of the two in VIA")
        photos[name] = regions
    return photos


def _attribute(regions: list[dict[str, Any]], wanted: str | None, path: Path) -> str:
    """The region attribute that names the class: the one asked for, or the only one there is."""
    found = sorted({key for region in regions for key in region.get("region_attributes") or {}})
    if wanted is None and len(found) == 1:
        return found[0]
    there = f"the regions have: {', '.join(found) or 'none'}"
    if wanted is None:
        raise UserError(f"give --class NAME for one class, or --class-attribute NAME for several ({there})")
    if wanted not in found:
        raise UserError(f"no region in {path} has the attribute {wanted!r}: choose another one ({there})")
    return wanted


def _object(i: int, region: Mapping[str, Any], attribute: str | None) -> SourceObject:
    shape = region["shape_attributes"]
    label, outline = f"{shape.get('name', 'shape')} {i}", partial(_outline, shape)
    if attribute is None:
        return SourceObject(label, "", outline)
    value = (region.get("region_attributes") or {}).get(attribute)
    if isinstance(value, dict):  # a checkbox: {"cat": true, "dog": false}
        ticked = [key for key, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else None
    if value is None or not str(value).strip():
        return SourceObject(
            label, "", partial(refuse, f"has no (single) value of the attribute {attribute!r}")
        )
    return SourceObject(label, str(value).strip(), outline)


def _outline(shape: Mapping[str, Any], width: int, height: int) -> list[np.ndarray]:
    return [shape_points(shape) + 0.5]


def shape_points(shape: Mapping[str, Any]) -> np.ndarray:
    """The outline (N, 2) of a VIA shape in its whole pixels: polygon, polyline (closed), rect, circle or ellipse.

    Raises:
        ValueError: what is wrong with it, as the end of a sentence that begins with the shape's name.
    """

    def get(*keys: str) -> list[float]:
        return [number(shape.get(key), key) for key in keys]

    kind = shape.get("name")
    if kind in ("polygon", "polyline"):
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise ValueError("has no lists of x and y coordinates of one length")
        return pairs([list(each) for each in zip(xs, ys, strict=True)])
    if kind == "rect":
        x, y, width, height = get("x", "y", "width", "height")
        return rectangle(x, y, x + width, y + height)
    if kind == "circle":
        return ellipse(get("cx", "cy"), get("r", "r"))
    if kind == "ellipse":
        theta = number(shape.get("theta", 0), "theta")  # radians, since VIA 2.0.9
        return ellipse(get("cx", "cy"), get("rx", "ry"), theta)
    raise ValueError(f"is of the kind {kind!r}, which has no area")


def write(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
    """See ``Format``. A mask, or an object of several parts, becomes one polygon with bridges of no width."""
    for split, photos in splits.items():
        entries = {}
        for photo in photos:
            regions = []
            for each in photo.instances:
                x, y = (single_polygon(each.segmentation, photo.width, photo.height) - 0.5).T.tolist()
                shape = {"name": "polygon", "all_points_x": x, "all_points_y": y}
                attributes = {"class": classes[each.class_id]}
                regions.append({"shape_attributes": shape, "region_attributes": attributes})
            size = (root / split / photo.name).stat().st_size
            entry = {"filename": photo.name, "size": size, "regions": regions, "file_attributes": {}}
            entries[f"{photo.name}{size}"] = entry
        write_json(root / split / "via_region_data.json", entries)
