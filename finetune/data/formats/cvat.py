"""CVAT for images 1.1 (https://docs.cvat.ai, "CVAT for image: XML").

Read: polygon, mask, box and ellipse (with rotation); shapes of one group and label are one object. Coordinates are
continuous pixels. Ignored: tags, points, tracks of a video.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from finetune.data.dataset import Photo
from finetune.data.formats.source import (
    SPLIT_WORDS,
    Annotations,
    Options,
    SourceFolder,
    SourceObject,
    SourcePhoto,
    closed_curve,
    joined,
    listing,
    number,
    rectangle,
    turned,
)
from finetune.data.masks import crop, to_mask
from finetune.errors import UserError
from finetune.files import write_atomically

TITLE = "CVAT"
PHOTOS = "images/{split}"
SHAPES = ("polygon", "mask", "box", "ellipse", "polyline", "points", "cuboid", "skeleton")


def recognize(folder: SourceFolder) -> str | None:
    """See ``Format``."""
    found = [path for path in folder.files(".xml") if _looks_right(path)]
    return f"{listing(folder.name_of(path) for path in found)} with <annotations>" if found else None


def _looks_right(path: Path) -> bool:
    with path.open("rb") as file:
        return b"<annotations>" in file.read(1000)


def read(folder: SourceFolder, options: Options) -> Annotations:
    """See ``Format``."""
    files = [path for path in folder.files(".xml") if _looks_right(path)]
    if not files:
        raise UserError(f'{folder.path} holds no CVAT file: export "CVAT for images 1.1" next to the photos')
    photos: list[SourcePhoto] = []
    classes: list[str] = []
    for path in files:
        root = _parse(path)
        if root.find("track") is not None:
            raise UserError(f'{path} describes a video: export it from CVAT as "CVAT for images 1.1"')
        for label in root.findall("./meta//labels/label/name"):
            if (name := (label.text or "").strip()) and name not in classes:
                classes.append(name)
        photos += [_photo(folder, path, image) for image in root.iter("image")]
    if not photos:
        raise UserError(f"{listing(map(str, files))} lists no images: annotate some and export again")
    return Annotations(photos, files, classes)


def _parse(path: Path) -> ElementTree.Element:
    content = path.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # entities could swell or read other files
        raise UserError(f"{path} declares XML entities, which CVAT never does: export it again")
    try:
        return ElementTree.fromstring(content)  # noqa: S314 - no entities
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid XML ({error}): export it again") from None


def _photo(folder: SourceFolder, path: Path, image: ElementTree.Element) -> SourcePhoto:
    name = image.get("name") or ""
    try:
        size = int(image.get("width", "")), int(image.get("height", ""))
    except ValueError:
        raise UserError(f"{path}: the image {name!r} has no width and height: export it again") from None
    groups: dict[Any, list[ElementTree.Element]] = {}
    labels: dict[Any, str] = {}
    for i, shape in enumerate((each for each in image if each.tag in SHAPES), start=1):
        group = shape.get("group_id", "0")
        key = i if group == "0" else (group, shape.get("label"))
        groups.setdefault(key, []).append(shape)
        labels.setdefault(key, f"{shape.tag} {i}")
    objects = [
        SourceObject(labels[key], (parts[0].get("label") or "").strip(), partial(_outline, parts))
        for key, parts in groups.items()
    ]
    split = SPLIT_WORDS.get((image.get("subset") or "").lower())
    return folder.photo(name, path, objects, split=split, size=size)


def _outline(parts: Sequence[ElementTree.Element], width: int, height: int) -> Any:
    return joined([_shape(part, width, height) for part in parts], width, height)


def _shape(shape: ElementTree.Element, width: int, height: int) -> np.ndarray:
    """A polygon (N, 2), or for a mask (H, W) bool."""

    def get(*keys: str) -> list[float]:
        return [number(shape.get(key), key) for key in keys]

    angle = np.deg2rad(number(shape.get("rotation", "0"), "rotation"))
    if shape.tag == "polygon":
        pairs = [point.split(",") for point in (shape.get("points") or "").split(";") if point.strip()]
        if not all(len(pair) == 2 for pair in pairs):
            raise ValueError("has coordinates that are not numbers in pairs")
        return np.array([(number(x), number(y)) for x, y in pairs]).reshape(-1, 2)
    if shape.tag == "box":
        x0, y0, x1, y1 = get("xtl", "ytl", "xbr", "ybr")
        center = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        return turned(rectangle(x0, y0, x1, y1) - center, angle) + center
    if shape.tag == "ellipse":
        cx, cy, rx, ry = get("cx", "cy", "rx", "ry")
        return closed_curve((cx, cy), (rx, ry), angle)
    if shape.tag != "mask":
        raise ValueError(f"is of the kind {shape.tag!r}, which has no area")
    left, top, columns, rows = (int(value) for value in get("left", "top", "width", "height"))
    if min(left, top) < 0 or min(columns, rows) < 1 or left + columns > width or top + rows > height:
        raise ValueError(f"has a mask of {columns} x {rows} pixels that reaches out of the photo")
    runs = [int(number(word, "run length")) for word in (shape.get("rle") or "").split(",")]
    if min(runs) < 0 or sum(runs) != rows * columns:
        raise ValueError(f"has an RLE that does not add up to its {columns} x {rows} pixels")
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(rows, columns)
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + rows, left : left + columns] = part
    return mask


def write(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
    """See ``Format``: one annotations.xml; an object of several parts becomes a mask."""
    document = ElementTree.Element("annotations")
    ElementTree.SubElement(document, "version").text = "1.1"
    labels = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(document, "meta"), "task"), "labels"
    )
    for name in classes:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for i, (split, photo) in enumerate(
        (split, photo) for split, photos in splits.items() for photo in photos
    ):
        image = ElementTree.SubElement(
            document, "image", id=str(i), name=f"{split}/{photo.name}", subset=split
        )
        image.set("width", str(photo.width))
        image.set("height", str(photo.height))
        for each in photo.instances:
            attributes = {
                "label": classes[each.class_id],
                "source": "manual",
                "occluded": "0",
                "z_order": "0",
            }
            kind, outline = _element(each.segmentation, photo.width, photo.height)
            ElementTree.SubElement(image, kind, attributes | outline)
    ElementTree.indent(document)
    text = ElementTree.tostring(document, encoding="utf-8", xml_declaration=True)
    write_atomically(root / "annotations.xml", lambda path: path.write_bytes(text))


def _element(segmentation: Any, width: int, height: int) -> tuple[str, dict[str, str]]:
    if isinstance(segmentation, list) and len(segmentation) == 1:
        points = np.reshape(segmentation[0], (-1, 2)).tolist()
        return "polygon", {"points": ";".join(f"{x:.2f},{y:.2f}" for x, y in points)}
    x0, y0, part = crop(to_mask(segmentation, width, height))
    flat = part.ravel()
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    runs = ([0] if flat[0] else []) + np.diff(edges).tolist()
    place = {"left": x0, "top": y0, "width": part.shape[1], "height": part.shape[0]}
    return "mask", {"rle": ", ".join(map(str, runs))} | {key: str(value) for key, value in place.items()}
