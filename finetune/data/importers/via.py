"""VGG Image Annotator (VIA) 1 and 2: annotation exports and project files, into the layout.

https://www.robots.ox.ac.uk/~vgg/software/via/ . VIA's coordinates are whole pixels; half a pixel is added, as
in Detectron2's balloon tutorial, because COCO's coordinates are continuous (the first pixel's centre is 0.5).
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.dataset import SPLITS, Instance, Photo, already_made, write_dataset
from finetune.data.masks import MAX_COORDINATE, box_and_area, clean_polygon
from finetune.data.photos import open_photo, photo_path, upright_size
from finetune.data.split import plan_splits
from finetune.errors import UserError
from finetune.files import read_json, sha256_of

CURVE_POINTS = 90  # of a circle or ellipse: its area comes out 0.08 % too small

Regions = dict[str, list[dict[str, Any]]]


def make_via(
    folder: Path,
    root: Path,
    *,
    class_name: str | None = None,
    class_attribute: str | None = None,
    val: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    keep_empty: bool = False,
    skip_bad: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Convert photos annotated with VIA.

    Args:
        folder: photos and their VIA file; or ``train``, ``val`` and ``test`` below it, each with its own.
        root: the folder to make.
        class_name: the one class of all regions; or ``class_attribute``: the region attribute that names it.
        val, test: shares of the (training) photos to draw for a split without a folder of its own.
        keep_empty: keep photos without a region as examples of "nothing here", instead of leaving them out.
        skip_bad: leave out shapes that cannot be used, instead of stopping at the first.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: what is wrong with the folder, the VIA file, a photo or a shape.
    """
    folders = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
    if "train" not in folders:
        folders = {"train": folder}
    paths = {split: find_via_file(place) for split, place in folders.items()}
    files = {split: read_via(path) for split, path in paths.items()}
    if not keep_empty:
        for path, photos in zip(paths.values(), files.values(), strict=True):
            for name in [name for name, regions in photos.items() if not regions]:
                print(f"left out: {name} has no region in {path.name} (--keep-empty keeps such photos)")
                del photos[name]
    regions = [region for photo in files["train"].values() for region in photo]
    if not regions:
        raise UserError(f"{paths['train']} holds no regions: annotate some objects in VIA and export again")
    class_of, classes = _classes(regions, class_name, class_attribute, paths["train"])

    digest = " ".join(sha256_of(path)[:12] for path in paths.values())
    options = f"classes by {class_attribute or class_name}, val {val}, test {test}, seed {seed}"
    flags = f", keep_empty {keep_empty}, skip_bad {skip_bad}"
    source = f"VIA annotations {digest}: {options}{flags}"
    if card := already_made(root, source, force):
        return card
    skipped: list[str] | None = [] if skip_bad else None
    splits = {
        split: to_photos(folders[origin], files[origin], names, classes, class_of, skipped)
        for split, (origin, names) in plan_splits(files, val, test, seed).items()
    }
    card = write_dataset(root, name=root.name, classes=classes, source=source, splits=splits)
    for trouble in skipped or ():
        print(f"skipped: {trouble}")
    return card


def _classes(
    regions: list[dict[str, Any]], class_name: str | None, class_attribute: str | None, path: Path
) -> tuple[Callable[[Mapping[str, Any]], str], list[str]]:
    """How to tell a region's class, and the class names of the training regions, sorted."""
    if class_name and not class_attribute:
        return lambda region: class_name, [class_name]
    found = sorted({key for region in regions for key in region.get("region_attributes") or {}})
    there = f"the regions in {path.name} have: {', '.join(found)}" if found else f"{path.name} has none"
    if not class_attribute:
        raise UserError(
            f"name the one class with --class NAME, or --class-attribute NAME for several ({there})"
        )
    if class_attribute not in found:
        raise UserError(f"no region has the attribute {class_attribute!r}: choose another ({there})")
    class_of = partial(class_from_attribute, class_attribute)
    names = set()
    for region in regions:
        with contextlib.suppress(ValueError):  # told with the photo's name when the region is converted
            names.add(class_of(region))
    return class_of, sorted(names)


def find_via_file(folder: Path) -> Path:
    """The VIA file of a folder: the only ``via*.json``, else the only ``*.json``.

    Raises:
        UserError: the folder is missing, or it holds no such file, or several.
    """
    if not folder.is_dir():
        raise UserError(f"the folder {folder} is not there: check the path")
    found = sorted(folder.glob("via*.json")) or sorted(folder.glob("*.json"))
    if not found:
        raise UserError(f"{folder} holds no VIA file: save the annotations there as via_region_data.json")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder} holds several JSON files ({names}): leave only the VIA file there")
    return found[0]


def read_via(path: Path) -> Regions:
    """Read a VIA file of version 1 or 2, export or project.

    Returns:
        File name → its regions, each a dict with ``shape_attributes`` and ``region_attributes``.

    Raises:
        UserError: it is no VIA file, or it names one photo twice.
    """
    data = read_json(path)
    data = data.get("_via_img_metadata", data) if isinstance(data, dict) else None
    entries = list(data.values()) if isinstance(data, dict) else []
    if not isinstance(data, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("filename"), str) for entry in entries
    ):
        raise UserError(
            f"{path} is not a VIA file: export the annotations as JSON in VIA, or save its project"
        )
    if not entries:
        raise UserError(f"{path} lists no photos: annotate some in VIA and export again")
    photos: Regions = {}
    for entry in entries:
        regions = entry.get("regions") or []  # VIA 1 wrote a dict, VIA 2 writes a list
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(regions, list) or not all(_is_region(region) for region in regions):
            raise UserError(f"{path}: the regions of {entry['filename']} are damaged: export again")
        if entry["filename"] in photos:
            raise UserError(f"{path} lists {entry['filename']} twice: remove one of the two in VIA")
        photos[entry["filename"]] = regions
    return photos


def _is_region(region: Any) -> bool:
    return (
        isinstance(region, dict)
        and isinstance(region.get("shape_attributes"), dict)
        and isinstance(region.get("region_attributes") or {}, dict)
    )


def shape_points(shape: Mapping[str, Any]) -> np.ndarray:
    """The outline of a VIA shape: polygon, polyline (closed), rect, circle or ellipse.

    Returns:
        (N, 2) x and y, in continuous pixel coordinates.

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
            return (
                np.array([(_number(x), _number(y)) for x, y in zip(xs, ys, strict=True)]).reshape(-1, 2) + 0.5
            )
        if kind == "rect":
            x, y, width, height = (_number(shape[key]) for key in ("x", "y", "width", "height"))
            corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
            return np.array(corners) + 0.5
        if kind in ("circle", "ellipse"):
            cx, cy = _number(shape["cx"]), _number(shape["cy"])
            rx, ry = (_number(shape["r" if kind == "circle" else key]) for key in ("rx", "ry"))
            theta = _number(shape.get("theta", 0))  # radians, since VIA 2.0.9
            angles = np.linspace(0, 2 * math.pi, CURVE_POINTS, endpoint=False)
            xs, ys = rx * np.cos(angles), ry * np.sin(angles)
            cos, sin = math.cos(theta), math.sin(theta)
            return np.stack([xs * cos - ys * sin + cx, xs * sin + ys * cos + cy], axis=1) + 0.5
    except KeyError as error:
        raise ValueError(f"has no {error.args[0]}") from None
    raise ValueError(f"is a {kind}, which has no area")


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not abs(value) < MAX_COORDINATE:
        raise ValueError(f"has the coordinate {value!r}, which is no number of pixels")
    return float(value)


def class_from_attribute(attribute: str, region: Mapping[str, Any]) -> str:
    """A region's class, from one of its attributes: text, dropdown, radio or checkbox.

    Raises:
        ValueError: the attribute is missing, empty, or has several boxes ticked.
    """
    value = (region.get("region_attributes") or {}).get(attribute)
    if isinstance(value, dict):  # a checkbox: {"cat": true, "dog": false}
        ticked = [key for key, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else None
    if value is None or not str(value).strip():
        raise ValueError(f"has no (single) value of the attribute {attribute!r}")
    return str(value).strip()


def to_photos(
    folder: Path,
    regions: Regions,
    names: Iterable[str],
    classes: list[str],
    class_of: Callable[[Mapping[str, Any]], str],
    skipped: list[str] | None = None,
) -> Iterable[Photo]:
    """Turn the regions of these photos into polygons, clipped to the photo.

    Args:
        folder: where the photos lie.
        names: which of the photos in ``regions``.
        class_of: class name of a region; it must be in ``classes``.
        skipped: where to note the shapes that cannot be used; None makes the first of them an error.

    Raises:
        UserError: a photo is missing or unreadable, or a shape cannot be used (it says which and why).
    """
    for name in names:
        path = photo_path(folder, name)
        with open_photo(path, decode=False) as image:
            width, height = upright_size(image)
        instances = []
        for number, region in enumerate(regions[name], start=1):
            shape = region["shape_attributes"]
            try:
                polygons = [clean_polygon(shape_points(shape), width, height)]
                if box_and_area(polygons, width, height)[1] == 0:
                    raise ValueError("covers no pixel")
                if (name_of_class := class_of(region)) not in classes:
                    raise ValueError(f"has the class {name_of_class!r}, which no training photo has")
                instances.append(Instance(classes.index(name_of_class), polygons))
            except ValueError as error:
                trouble = f"{shape.get('name', 'shape')} {number} of {path} {error}"
                if skipped is None:
                    raise UserError(
                        f"{trouble}: mend it in VIA, or leave such shapes out with --skip-bad"
                    ) from None
                skipped.append(trouble)
        yield Photo(name, path, width, height, instances)
