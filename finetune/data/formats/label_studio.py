"""Label Studio's JSON export (https://labelstud.io/guide/export): a list of tasks.

Read: polygons, brush masks (its own RLE), ellipses and rectangles (with rotation). Coordinates are percent of the
photo's size. Uploaded photos carry eight hexadecimal digits and a dash before their name; both names are looked for.
Of several annotations of a task, the ground truth counts, else the last one that was not skipped.

A brush is the RLE of https://github.com/thi-ng/umbrella (package rle-pack) over RGBA bytes, a stream of bits: 32 for
the number of values, 5 for their width less one, four times 4 for the widths of run lengths less one; then per run a
bit (1 for equal values), 2 for the width, the length less one, and the value or values.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np

from finetune.data.dataset import Photo
from finetune.data.formats.shapes import ellipse, number, pairs, rectangle, refuse, run_lengths, turned
from finetune.data.formats.source import (
    PHOTO_SUFFIXES,
    Annotations,
    Options,
    SourceFolder,
    SourceObject,
    SourcePhoto,
    fits,
    listing,
)
from finetune.data.masks import to_mask
from finetune.errors import UserError
from finetune.files import write_atomically, write_json

TITLE = "Label Studio"
PHOTOS = "images/{split}"
ADVICE = "export JSON (not JSON-MIN), next to the photos"
UPLOAD_PREFIX = re.compile("^[0-9a-f]{8}-")
KINDS = ("polygon", "brush", "ellipse", "rectangle")


def _is_label_studio(data: Any) -> bool:
    filled = isinstance(data, list) and bool(data)
    return filled and all(fits(task, data=dict, annotations=list) for task in data)


find = partial(SourceFolder.documents, is_wanted=_is_label_studio)


def read(folder: SourceFolder, found: Iterator[tuple[Path, Any]], options: Options) -> Annotations:
    """See ``Format``."""
    result, unfinished, several = Annotations([]), [], []
    for path, task in ((path, task) for path, tasks in found for task in tasks):
        name = _photo_name(task, path)
        every = [each for each in task["annotations"] if fits(each, result=list)]
        usable = [each for each in every if not each.get("was_cancelled")]
        if not usable:
            unfinished.append(name)
            continue
        if len(usable) > 1:
            several.append(name)
        truth = [each for each in usable if each.get("ground_truth")]
        result.photos.append(_photo(folder, path, name, (truth or usable)[-1]["result"]))
    for names, what in (
        (unfinished, "left out: {} tasks without a submitted annotation ({})"),
        (several, "{} tasks have several annotations; the last one counts ({})"),
    ):
        if names:
            result.notes.append(what.format(len(names), listing(names)))
    return result


def _photo_name(task: Mapping[str, Any], path: Path) -> str:
    """The file name in a task's data: an upload, a local file (``?d=``) or a URL."""
    for value in task["data"].values():
        if isinstance(value, str):
            try:
                parts = urlsplit(value)
            except ValueError:  # brackets that are no IPv6 address
                continue
            name = (parse_qs(parts.query).get("d") or [unquote(parts.path)])[0]
            if PurePosixPath(name).suffix.lower() in PHOTO_SUFFIXES:
                return name
    raise UserError(f"task {task.get('id')} of {path} names no photo: export tasks of images")


def _photo(folder: SourceFolder, path: Path, name: str, result: Sequence[Any]) -> SourcePhoto:
    regions = [each for each in result if fits(each, value=dict)]
    labels: dict[str, str] = {}
    for each in regions:
        # with <Polygon> and <Labels> apart, the label is a result of its own with the same id
        for value in (each["value"].get(key) for key in (str(each.get("type")), "labels")):
            if isinstance(value, list) and value:
                labels[str(each.get("id"))] = str(value[0])
    objects, size = [], (None, None)
    for i, each in enumerate(regions, start=1):
        kind = str(each.get("type")).removesuffix("labels")
        if kind in KINDS:
            size = each.get("original_width"), each.get("original_height")
            turned_view = partial(refuse, "was drawn on a rotated view: rotate the photo")
            outline = turned_view if each.get("image_rotation") else partial(_outline, kind, each["value"])
            objects.append(SourceObject(f"{kind} {i}", labels.get(str(each.get("id")), ""), outline))
    photo = folder.photo(name, path, objects, size=size)
    base = PurePosixPath(name).name
    if photo.problem and UPLOAD_PREFIX.match(base):
        return folder.photo(UPLOAD_PREFIX.sub("", base), path, objects, size=size)
    return photo


def _outline(kind: str, value: Mapping[str, Any], width: int, height: int) -> Any:
    def point(x: str, y: str) -> np.ndarray:
        return np.array([number(value.get(x)), number(value.get(y))]) * scale

    scale = np.array([width, height]) / 100
    angle = np.deg2rad(number(value.get("rotation") or 0, "rotation"))
    if kind == "brush":
        return decode_brush(value.get("rle"), width, height)
    if kind == "polygon":
        return [pairs(value.get("points")) * scale]
    if kind == "ellipse":
        return [ellipse(point("x", "y"), point("radiusX", "radiusY"), angle)]
    return [turned(rectangle(0, 0, *point("width", "height")), angle) + point("x", "y")]  # about its corner


def write(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
    """See ``Format``: a list of tasks per split, and the labeling interface that a project needs for them.

    Masks and objects of several parts become brushes.
    """
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    for kind in ("polygon", "brush"):
        control = ElementTree.SubElement(view, f"{kind.title()}Labels", name=kind, toName="image")
        for name in classes:
            ElementTree.SubElement(control, "Label", value=name)
    ElementTree.indent(view)
    write_atomically(root / "interface.xml", ElementTree.ElementTree(view).write)
    for split, photos in splits.items():
        tasks = []
        for i, photo in enumerate(photos, start=1):
            common = {"to_name": "image", "image_rotation": 0}
            common |= {"original_width": photo.width, "original_height": photo.height}
            result = []
            for j, each in enumerate(photo.instances):
                kind, value = _value(each.segmentation, photo.width, photo.height)
                value[f"{kind}labels"] = [classes[each.class_id]]
                region = {"id": f"{split}-{i}-{j}", "type": f"{kind}labels", "value": value}
                result.append(region | common | {"from_name": kind})
            image = f"/data/local-files/?d=images/{split}/{photo.name}"
            annotation = {"id": i, "was_cancelled": False, "ground_truth": False, "result": result}
            tasks.append({"id": i, "data": {"image": image}, "annotations": [annotation]})
        write_json(root / split / "label_studio.json", tasks)


def _value(segmentation: Any, width: int, height: int) -> tuple[str, dict[str, Any]]:
    if isinstance(segmentation, list) and len(segmentation) == 1:
        points = np.reshape(segmentation[0], (-1, 2)) / (width, height) * 100
        return "polygon", {"points": points.tolist(), "closed": True}
    return "brush", {"format": "rle", "rle": encode_brush(to_mask(segmentation, width, height))}


def decode_brush(rle: Any, width: int, height: int) -> np.ndarray:
    """A mask (H, W) bool from the bytes of a brush: the pixels with an alpha above 0.

    Raises:
        ValueError: the bytes do not unpack to a picture of this size.
    """
    broken = ValueError(f"has a brush RLE that does not unpack to {width} x {height} pixels")
    try:
        bits = np.unpackbits(np.array(rle, dtype=np.uint8))
    except (TypeError, ValueError, OverflowError):
        raise broken from None
    place = 0

    def take(count: int, size: int) -> np.ndarray:
        """The next ``count`` numbers of ``size`` bits each."""
        nonlocal place
        place += count * size
        if place > len(bits):
            raise broken
        return bits[place - count * size : place].reshape(count, size) @ (1 << np.arange(size)[::-1])

    total, word = int(take(1, 32)[0]), 1 + int(take(1, 5)[0])
    widths = take(4, 4) + 1
    if total != width * height * 4:
        raise broken
    values = np.zeros(total, dtype=np.uint8)
    done = 0
    while done < total:
        equal, kind = take(1, 1)[0], take(1, 2)[0]
        end = done + 1 + int(take(1, widths[kind])[0])
        if end > total:
            raise broken
        values[done:end] = take(1 if equal else end - done, word)
        done = end
    return values.reshape(height, width, 4)[..., 3] > 0


def encode_brush(mask: np.ndarray) -> list[int]:
    """The bytes of a brush for a mask (H, W) bool."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    parts = [f"{values.size:032b}", f"{7:05b}", *(f"{width - 1:04b}" for width in (4, 8, 12, 16))]
    start = 0
    for length in run_lengths(values):
        for first in range(0, length, 1 << 16):
            count = min(length - first, 1 << 16)
            parts.append(f"1{3:02b}{count - 1:016b}{values[start]:08b}")
        start += length
    return np.packbits(np.frombuffer("".join(parts).encode(), np.uint8) - ord("0")).tolist()
