"""COCO annotation files (https://cocodataset.org/#format-data), also as Roboflow, CVAT and Label Studio lay them out.

Read: polygons, RLE of both kinds, ``iscrowd``. Ignored: keypoints, captions, licenses. Ids may be any numbers; classes
keep the order of their category ids. Several files are joined by class name; a file belongs to the split that its
folder or its name tells (``instances_val2017.json``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetune.data.dataset import Photo, coco_document
from finetune.data.formats.source import (
    SPLIT_WORDS,
    Annotations,
    Options,
    SourceFolder,
    SourceObject,
    found_files,
)
from finetune.errors import UserError
from finetune.files import write_json

TITLE = "COCO"
PHOTOS = "{split}"


@dataclass(frozen=True)
class CocoFile:
    """One annotation file: category names by id, images and their annotations by file name."""

    path: Path
    categories: dict[int, str]
    images: dict[str, dict[str, Any]]
    annotations: dict[str, list[dict[str, Any]]]


def recognize(folder: SourceFolder) -> str | None:
    """See ``Format``."""
    return found_files(folder, _is_coco, "images, categories and annotations")


def _is_coco(data: Any) -> bool:
    return isinstance(data, dict) and all(
        isinstance(data.get(key), list) for key in ("images", "categories", "annotations")
    )


def read(folder: SourceFolder, options: Options) -> Annotations:
    """See ``Format``."""
    documents = list(folder.documents(_is_coco))
    if not documents:
        raise UserError(
            f"{folder.path} holds no COCO file: it needs the lists images, categories and annotations"
        )
    files = [parse_coco(path, data) for path, data in documents]
    return annotations_of([(file, folder, split_of(folder, file.path)) for file in files])


def split_of(folder: SourceFolder, path: Path) -> str | None:
    """The split of an annotation file, by its folder or by a word of its name."""
    words = (SPLIT_WORDS.get(word) for word in re.findall("[a-z]+", path.stem.lower()))
    return folder.split_of(path) or next(filter(None, words), None)


def annotations_of(files: Sequence[tuple[CocoFile, SourceFolder, str | None]]) -> Annotations:
    """Join annotation files, each with the folder of its photos and its split."""
    photos, classes, from_cvat = [], [], ""
    for file, folder, split in files:
        classes += [name for _, name in sorted(file.categories.items()) if name not in classes]
        for name, image in file.images.items():
            objects = [_object(each, file.categories) for each in file.annotations[name]]
            size = image.get("width"), image.get("height")
            known = isinstance(size[0], int) and isinstance(size[1], int)
            photos.append(
                folder.photo(name, file.path, objects, split=split, size=size if known else None)  # type: ignore[arg-type]
            )
        every = [each for listed in file.annotations.values() for each in listed]
        # CVAT alone writes the attribute "occluded" of every shape
        if every and all(
            isinstance(each.get("attributes"), dict) and "occluded" in each["attributes"] for each in every
        ):
            from_cvat = "CVAT writes every mask as a crowd"
    return Annotations(photos, [file.path for file, _, _ in files], classes, crowds_are_objects=from_cvat)


def _object(annotation: Mapping[str, Any], categories: Mapping[int, str]) -> SourceObject:
    return SourceObject(
        f"annotation {annotation.get('id')}",
        categories[annotation["category_id"]],
        partial(_outline, annotation.get("segmentation")),
        bool(annotation.get("iscrowd")),
    )


def _outline(segmentation: Any, width: int, height: int) -> Any:
    if not segmentation:
        raise ValueError("has no segmentation, and Mask R-CNN learns from masks")
    if not isinstance(segmentation, list | dict):
        raise ValueError("is neither a list of polygons nor an RLE with size and counts")
    return segmentation


def parse_coco(path: Path, data: Any) -> CocoFile:
    """Check that the parts of an annotation file fit together.

    Raises:
        UserError: it is not such a file, lists something twice, or refers to something that it does not list.
    """
    parts = [
        data.get(key) if isinstance(data, dict) else None for key in ("images", "categories", "annotations")
    ]
    if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in parts):
        raise UserError(f"{path} is not a COCO file: it needs the lists images, categories and annotations")
    categories = _categories(path, data["categories"])
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
        number = annotation.get("category_id")
        if not _listed(number, categories):
            there = ", ".join(f"{each} {name}" for each, name in sorted(categories.items())) or "none"
            raise UserError(
                f"{which} has category {number}, which is not listed (listed: {there}): add its name"
            )
        annotations[names[annotation["image_id"]]].append(annotation)
    return CocoFile(path, categories, images, annotations)


def _categories(path: Path, listed: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for category in listed:
        number, name = category.get("id"), category.get("name")
        if not isinstance(number, int) or not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: a category has no id or no name: {category}: give it both")
        if number in categories or name in categories.values():
            raise UserError(f"{path} lists the category {number} {name!r} twice: remove one")
        categories[number] = name
    return categories


def _listed(number: Any, table: Mapping[Any, Any]) -> bool:
    return isinstance(number, int | str) and number in table


def write(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
    """See ``Format``: Roboflow's layout, a folder per split."""
    for split, photos in splits.items():
        write_json(root / split / "_annotations.coco.json", coco_document(classes, photos))
