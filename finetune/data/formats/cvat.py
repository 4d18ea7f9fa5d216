"""CVAT for images 1.1 (https://docs.cvat.ai, "CVAT for image: XML").

Read: polygon, mask, box and ellipse (with rotation); shapes of one group and label are one object. Coordinates are
continuous pixels. Ignored: tags, points, tracks of a video.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from finetune.data.dataset import Photo
from finetune.data.formats.shapes import (
    ellipse,
    join_groups,
    number,
    pairs,
    paste,
    rectangle,
    run_lengths,
    turned,
)
from finetune.data.formats.source import SPLIT_WORDS, Annotations, Options, SourceFolder, SourceObject
from finetune.data.masks import crop, to_mask
from finetune.errors import UserError
from finetune.files import write_atomically

TITLE = "CVAT"
PHOTOS = "images/{split}"
ADVICE = 'export "CVAT for images 1.1" next to the photos'
SHAPES = ("polygon", "mask", "box", "ellipse", "polyline", "points", "cuboid", "skeleton")


def find(folder: SourceFolder, *, sniff: bool = False) -> Iterator[tuple[Path, Any]]:
    """See ``Format``."""
    for path in folder.files(".xml"):
        with path.open("rb") as file:
            head = file.read(1000)
        if b"<annotations>" in head:
            yield path, None if sniff else _parse(path)


def _parse(path: Path) -> ElementTree.Element:
    content = path.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # entities could swell or read other files
        raise UserError(f"{path} declares XML entities, which CVAT never does: export it again")
    try:
        return ElementTree.fromstring(content)  # noqa: S314 - no entities
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid XML ({error}): export it again") from None


def read(folder: SourceFolder, found: Iterator[tuple[Path, Any]], options: Options) -> Annotations:
    """See ``Format``."""
    result = Annotations([])
    for path, root in found:
        if root.find("track") is not None:
            raise UserError(f'{path} describes a video: export it from CVAT as "CVAT for images 1.1"')
        labels = ((label.text or "").strip() for label in root.findall("./meta//labels/label/name"))
        result.classes += [name for name in labels if name and name not in result.classes]
        for image in root.iter("image"):
            name = image.get("name", "")
            try:
                size = int(image.get("width", "")), int(image.get("height", ""))
            except ValueError:
                raise UserError(
                    f"{path}: the image {name!r} has no width and height: export it again"
                ) from None
            shapes = enumerate((each for each in image if each.tag in SHAPES), start=1)
            objects = join_groups((_group(shape), _object(i, shape)) for i, shape in shapes)
            split = SPLIT_WORDS.get(image.get("subset", "").lower())
            result.photos.append(folder.photo(name, path, objects, split=split, size=size))
    return result


def _group(shape: ElementTree.Element) -> str | None:
    return None if (group := shape.get("group_id", "0")) == "0" else group


def _object(i: int, shape: ElementTree.Element) -> SourceObject:
    return SourceObject(f"{shape.tag} {i}", shape.get("label", "").strip(), partial(_outline, shape))


def _outline(shape: ElementTree.Element, width: int, height: int) -> list[np.ndarray] | np.ndarray:
    def get(*keys: str) -> list[float]:
        return [number(shape.get(key), key) for key in keys]

    angle = np.deg2rad(number(shape.get("rotation", "0"), "rotation"))
    if shape.tag == "polygon":
        return [pairs([point.split(",") for point in shape.get("points", "").split(";") if point.strip()])]
    if shape.tag == "box":
        x0, y0, x1, y1 = get("xtl", "ytl", "xbr", "ybr")
        center = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        return [turned(rectangle(x0, y0, x1, y1) - center, angle) + center]
    if shape.tag == "ellipse":
        return [ellipse(get("cx", "cy"), get("rx", "ry"), angle)]
    if shape.tag != "mask":
        raise ValueError(f"is of the kind {shape.tag!r}, which has no area")
    left, top, columns, rows = (int(value) for value in get("left", "top", "width", "height"))
    runs = [int(number(word, "run length")) for word in shape.get("rle", "").split(",")]
    if min(columns, rows) < 1 or min(runs) < 0 or not sum(runs) == rows * columns <= width * height:
        raise ValueError(f"has an RLE that does not add up to its {columns} x {rows} pixels")
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(rows, columns)
    return paste(part, left, top, width, height)


def write(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
    """See ``Format``: one annotations.xml; an object of several parts becomes a mask."""
    document = ElementTree.Element("annotations")
    child = ElementTree.SubElement
    child(document, "version").text = "1.1"
    labels = child(child(child(document, "meta"), "task"), "labels")
    for name in classes:
        child(child(labels, "label"), "name").text = name
    every = [(split, photo) for split, photos in splits.items() for photo in photos]
    for i, (split, photo) in enumerate(every):
        what = {"id": i, "name": f"{split}/{photo.name}", "subset": split}
        what |= {"width": photo.width, "height": photo.height}
        image = child(document, "image", {key: str(value) for key, value in what.items()})
        for each in photo.instances:
            kind, outline = _element(each.segmentation, photo.width, photo.height)
            common = {"label": classes[each.class_id], "source": "manual", "occluded": "0", "z_order": "0"}
            child(image, kind, common | outline)
    ElementTree.indent(document)
    text = ElementTree.tostring(document, encoding="utf-8", xml_declaration=True)
    write_atomically(root / "annotations.xml", lambda path: path.write_bytes(text))


def _element(segmentation: Any, width: int, height: int) -> tuple[str, dict[str, str]]:
    if isinstance(segmentation, list) and len(segmentation) == 1:
        points = np.reshape(segmentation[0], (-1, 2)).tolist()
        return "polygon", {"points": ";".join(f"{x:.2f},{y:.2f}" for x, y in points)}
    left, top, part = crop(to_mask(segmentation, width, height))
    runs = [0] * bool(part[0, 0]) + run_lengths(part.ravel())
    place = {"left": left, "top": top, "width": part.shape[1], "height": part.shape[0]}
    return "mask", {"rle": ", ".join(map(str, runs))} | {key: str(value) for key, value in place.items()}
