"""VGG Image Annotator (VIA) 1 and 2: annotation exports and project files, into the layout.

https://www.robots.ox.ac.uk/~vgg/software/via/ . VIA's coordinates are whole pixels; half a pixel is added, as
in Detectron2's balloon tutorial, because COCO's coordinates are continuous (the first pixel's centre is 0.5).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.layout import SPLITS, Instance, Photo, read_json
from finetune.data.masks import box_and_area, clean_polygon
from finetune.data.photos import open_photo, upright_size
from finetune.data.split import split_names
from finetune.errors import UserError

CURVE_POINTS = 90  # of a circle or ellipse: its area comes out 0.08 % too small

Regions = dict[str, list[dict[str, Any]]]


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
    if not all(isinstance(entry, dict) and isinstance(entry.get("filename"), str) for entry in entries):
        raise UserError(
            f"{path} is not a VIA file: export the annotations as JSON in VIA, or save its project"
        )
    if not entries:
        raise UserError(f"{path} lists no photos: annotate some in VIA and export again")
    photos: Regions = {}
    for entry in entries:
        regions = entry.get("regions") or []  # VIA 1 wrote a dict, VIA 2 writes a list
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        shapes = [region.get("shape_attributes") for region in regions if isinstance(region, dict)]
        if not isinstance(regions, list) or not all(isinstance(shape, dict) for shape in shapes):
            raise UserError(f"{path}: the regions of {entry['filename']} are damaged: export again")
        if entry["filename"] in photos:
            raise UserError(f"{path} lists {entry['filename']} twice: remove one of the two in VIA")
        photos[entry["filename"]] = regions
    return photos


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
            if len(xs) != len(ys):
                raise ValueError(f"has {len(xs)} x but {len(ys)} y coordinates")
            return np.array([(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]).reshape(-1, 2) + 0.5
        if kind == "rect":
            x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
            corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
            return np.array(corners) + 0.5
        if kind in ("circle", "ellipse"):
            cx, cy = float(shape["cx"]), float(shape["cy"])
            rx, ry = (float(shape["r" if kind == "circle" else key]) for key in ("rx", "ry"))
            theta = float(shape.get("theta", 0))  # radians, since VIA 2.0.9
            angles = np.linspace(0, 2 * math.pi, CURVE_POINTS, endpoint=False)
            xs, ys = rx * np.cos(angles), ry * np.sin(angles)
            cos, sin = math.cos(theta), math.sin(theta)
            return np.stack([xs * cos - ys * sin + cx, xs * sin + ys * cos + cy], axis=1) + 0.5
    except KeyError as error:
        raise ValueError(f"has no {error.args[0]}") from None
    except TypeError:
        raise ValueError("has coordinates that are not numbers") from None
    raise ValueError(f"is a {kind}, which has no area")


def class_from_attribute(attribute: str) -> Callable[[Mapping[str, Any]], str]:
    """A function that reads a region's class from one of its attributes (text, dropdown, radio or checkbox).

    That function raises ValueError where the attribute is missing, empty, or has several boxes ticked.
    """

    def class_of(region: Mapping[str, Any]) -> str:
        attributes = region.get("region_attributes") or {}
        value = attributes.get(attribute) if isinstance(attributes, dict) else None
        if isinstance(value, dict):  # a checkbox: {"cat": true, "dog": false}
            ticked = [key for key, on in value.items() if on]
            value = ticked[0] if len(ticked) == 1 else None
        if value is None or not str(value).strip():
            raise ValueError(f"has no (single) value of the attribute {attribute!r}")
        return str(value).strip()

    return class_of


def attribute_names(photos: Regions) -> list[str]:
    """The region attributes that occur in a VIA file."""
    regions = (region for regions in photos.values() for region in regions)
    return sorted({key for region in regions for key in region.get("region_attributes") or {}})


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
                instances.append(Instance(classes.index(class_of(region)), polygons))
            except ValueError as error:
                trouble = f"{shape.get('name', 'shape')} {number} of {path} {error}"
                if skipped is None:
                    raise UserError(
                        f"{trouble}: mend it in VIA, or leave such shapes out with --skip-bad"
                    ) from None
                skipped.append(trouble)
        yield Photo(name, path, width, height, instances)


def photo_path(folder: Path, name: str) -> Path:
    """The file of a photo that an annotation file names; it must lie inside the folder.

    Raises:
        UserError: the name leads elsewhere, or nothing is there.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"the annotations name the photo {name!r}, which is not inside {folder}: use plain names"
        )
    if not path.is_file():
        raise UserError(f"{path} is missing: put the photo there or remove it from the annotations")
    return path


def plan_splits(
    files: Mapping[str, Regions], val: float, test: float, seed: int
) -> dict[str, tuple[str, list[str]]]:
    """Decide which photo belongs to which split.

    Args:
        files: regions per folder that is there; ``train`` always, ``val`` and ``test`` if they exist.
        val, test: the shares of the training photos to draw for a split that has no folder of its own.

    Returns:
        Split → (the folder its photos come from, their names).
    """
    train = sorted(files["train"])
    count = len(train)
    plan: dict[str, tuple[str, list[str]]] = {}
    for split, share in (("test", test), ("val", val)):
        if split in files:
            plan[split] = (split, sorted(files[split]))
        elif share:
            # a share of all photos, also for the second split that is drawn
            train, drawn = split_names(train, min(share * count / len(train), 1), seed)
            plan[split] = ("train", drawn)
    plan["train"] = ("train", train)
    return {split: plan[split] for split in SPLITS if split in plan}
