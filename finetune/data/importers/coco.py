"""COCO annotation files (https://cocodataset.org/#format-data), into the layout.

Taken over: polygons, RLE of both kinds, ``iscrowd``. Ignored: keypoints, captions, licences. Ids may be any
numbers; classes keep the order of their category ids.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from finetune.data.dataset import Instance, Photo, already_made, write_dataset
from finetune.data.masks import Segmentation, box_and_area, clean_polygon, encode_mask, to_rle
from finetune.data.photos import open_photo, orientation_of, photo_path, upright_size
from finetune.data.split import plan_splits
from finetune.errors import UserError
from finetune.files import read_json, sha256_of


@dataclass(frozen=True)
class CocoFile:
    """One annotation file: category names by id, images and their annotations by file name."""

    path: Path
    categories: dict[int, str]
    images: dict[str, dict[str, Any]]
    annotations: dict[str, list[dict[str, Any]]]


def make_coco(
    annotations: Mapping[str, Path],
    images: Mapping[str, Path],
    root: Path,
    *,
    val: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    skip_bad: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Convert COCO annotations.

    Args:
        annotations: annotation file per split; ``train`` at least.
        images: the folder of the images, for the same splits.
        root: the folder to make.
        val, test: shares of the training photos to draw for a split without a file of its own.
        skip_bad: leave out annotations that cannot be used, instead of stopping at the first.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: what is wrong with a file, an image or an annotation.
    """
    for folder in images.values():
        if not folder.is_dir():
            raise UserError(f"the folder {folder} is not there: check the path given with --images")
    files = {split: read_coco(path) for split, path in annotations.items()}
    classes = _classes(list(files.values()))
    digest = " ".join(sha256_of(path)[:12] for path in annotations.values())
    source = f"COCO annotations {digest}: val {val}, test {test}, seed {seed}, skip_bad {skip_bad}"
    if card := already_made(root, source, force):
        return card
    skipped: list[str] | None = [] if skip_bad else None
    plan = plan_splits({split: list(file.images) for split, file in files.items()}, val, test, seed)
    splits = {
        split: _to_photos(images[origin], files[origin], names, classes, skipped)
        for split, (origin, names) in plan.items()
    }
    card = write_dataset(root, name=root.name, classes=classes, source=source, splits=splits)
    for trouble in skipped or ():
        print(f"skipped: {trouble}")
    return card


def read_coco(path: Path) -> CocoFile:
    """Read an annotation file and check that its parts fit together.

    Raises:
        UserError: it is no such file, lists something twice, or refers to something that it does not list.
    """
    data = read_json(path)
    parts = [
        data.get(key) if isinstance(data, dict) else None for key in ("images", "categories", "annotations")
    ]
    if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in parts):
        raise UserError(f"{path} is not a COCO file: it needs the lists images, categories and annotations")
    categories: dict[int, str] = {}
    for category in data["categories"]:
        number, name = category.get("id"), category.get("name")
        if not isinstance(number, int) or not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: a category has no id or no name: {category}: give it both")
        if number in categories or name in categories.values():
            raise UserError(f"{path} lists the category {number} {name!r} twice: remove one")
        categories[number] = name
    images: dict[str, dict[str, Any]] = {}
    names: dict[Any, str] = {}
    for image in data["images"]:
        number, name = image.get("id"), image.get("file_name")
        if not isinstance(number, int | str) or not isinstance(name, str):
            raise UserError(f"{path}: an image has no id or no file_name: {image}: give it both")
        if number in names or name in images:
            raise UserError(f"{path} lists the image {number} {name!r} twice: remove one")
        images[name], names[number] = image, name
    if not images:
        raise UserError(f"{path} lists no images: annotate some and export again")
    annotations: dict[str, list[dict[str, Any]]] = {name: [] for name in images}
    for annotation in data["annotations"]:
        which = f"annotation {annotation.get('id')} of {path}"
        if not _listed(annotation.get("image_id"), names):
            raise UserError(
                f"{which} belongs to image {annotation.get('image_id')}, which is not listed: add it"
            )
        if not _listed(annotation.get("category_id"), categories):
            there = ", ".join(f"{number} {name}" for number, name in sorted(categories.items())) or "none"
            number = annotation.get("category_id")
            raise UserError(
                f"{which} has category {number}, which is not listed (listed: {there}): add its name"
            )
        annotations[names[annotation["image_id"]]].append(annotation)
    return CocoFile(path, categories, images, annotations)


def _listed(number: Any, table: Mapping[Any, Any]) -> bool:
    return isinstance(number, int | str) and number in table


def _classes(files: list[CocoFile]) -> list[str]:
    """The classes that occur, in the order of their ids in the first file, which must list them all."""
    train = files[0]
    for file in files[1:]:
        for name in file.categories.values():
            if name not in train.categories.values():
                listed = ", ".join(train.categories.values())
                raise UserError(
                    f"{file.path} has the class {name!r} that {train.path} lacks ({listed}): use one list"
                )
    used = {
        file.categories[annotation["category_id"]]
        for file in files
        for annotations in file.annotations.values()
        for annotation in annotations
    }
    if not used:
        raise UserError(f"{train.path} holds no annotations: annotate some objects and export again")
    names = [name for _, name in sorted(train.categories.items())]
    if unused := [name for name in names if name not in used]:
        print(f"left out: classes without an annotation: {', '.join(unused)}")
    return [name for name in names if name in used]


def _to_photos(
    folder: Path, file: CocoFile, names: Iterable[str], classes: list[str], skipped: list[str] | None
) -> Iterable[Photo]:
    for name in names:
        path = photo_path(folder, name)
        with open_photo(path, decode=False) as image:
            stored, upright, orientation = image.size, upright_size(image), orientation_of(image)
        listed = (file.images[name].get("width", upright[0]), file.images[name].get("height", upright[1]))
        if listed not in (upright, stored):
            size, says = "x".join(map(str, upright)), "x".join(map(str, listed))
            raise UserError(
                f"{path} has {size} pixels but {file.path} says {says}: use the photo that was annotated"
            )
        # Some tools ignore EXIF data and draw on the photo as it is stored; the listed size gives them away.
        turn = orientation if listed != upright else 1
        instances = []
        for annotation in file.annotations[name]:
            try:
                segmentation = _segmentation(annotation, listed, turn)
                class_id = classes.index(file.categories[annotation["category_id"]])
                instances.append(Instance(class_id, segmentation, bool(annotation.get("iscrowd"))))
            except ValueError as error:
                trouble = f"annotation {annotation.get('id')} of {path} {error}"
                if skipped is None:
                    raise UserError(f"{trouble}: mend it, or leave such ones out with --skip-bad") from None
                skipped.append(trouble)
        yield Photo(name, path, *upright, instances)


def _segmentation(annotation: Mapping[str, Any], size: tuple[int, int], orientation: int) -> Segmentation:
    """Check, clip and turn a segmentation; ValueError says what is wrong with it."""
    segmentation, (width, height) = annotation.get("segmentation"), size
    if not segmentation:
        raise ValueError("has no segmentation, and Mask R-CNN learns from masks")
    if isinstance(segmentation, dict):
        mask = coco_mask.decode(to_rle(segmentation, width, height)).astype(bool)
        if not mask.any():
            raise ValueError("has an empty mask")
        return encode_mask(turn_mask(mask, orientation))
    if not isinstance(segmentation, list):
        raise ValueError("is neither a list of polygons nor an RLE with size and counts")
    polygons = [clean_polygon(polygon, width, height) for polygon in segmentation]
    if box_and_area(polygons, width, height)[1] == 0:
        raise ValueError("covers no pixel")
    return [turn_polygon(polygon, width, height, orientation) for polygon in polygons]


def turn_polygon(polygon: list[float], width: int, height: int, orientation: int) -> list[float]:
    """Turn a flat polygon from the stored photo (of this size) upright, by EXIF orientation 1 or 5 to 8."""
    x, y = np.reshape(polygon, (-1, 2)).T
    turned = {1: (x, y), 5: (y, x), 6: (height - y, x), 7: (height - y, width - x), 8: (y, width - x)}[
        orientation
    ]
    return [float(value) for value in np.stack(turned, axis=1).ravel()]


def turn_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a (H, W) mask of the stored photo upright, by EXIF orientation 1 or 5 to 8."""
    if orientation == 1:
        return mask
    return {5: mask.T, 6: np.rot90(mask, -1), 7: np.rot90(mask, 2).T, 8: np.rot90(mask)}[orientation]
