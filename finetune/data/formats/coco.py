"""COCO annotation files (https://cocodataset.org/#format-data), also as Roboflow, CVAT and Label Studio lay them out.

Read: polygons, RLE of both kinds, ``iscrowd``. Ignored: keypoints, captions, licenses. Ids may be any numbers; classes
keep the order of their category ids. Several files are joined by class name; a file belongs to the split that its
folder or its name tells (``instances_val2017.json``).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
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
    fits,
    split_of,
)
from finetune.errors import UserError
from finetune.files import write_json

TITLE = "COCO"
PHOTOS = "{split}"
LISTS = ("images", "categories", "annotations")
CONTENT = "images, categories and annotations"
ADVICE = "it needs the lists images, categories and annotations"


@dataclass(frozen=True)
class CocoFile:
    """One annotation file: category names by id, images and their annotations by file name."""

    path: Path
    categories: dict[int, str]
    images: dict[str, dict[str, Any]]
    annotations: dict[str, list[dict[str, Any]]]


def find(folder: SourceFolder, *, sniff: bool = False) -> Iterator[tuple[Path, Any]]:
    """See ``Format``."""
    return folder.documents(_is_coco, sniff=sniff)


def _is_coco(data: Any) -> bool:
    return fits(data, images=list, categories=list, annotations=list)


def read(folder: SourceFolder, found: Iterator[tuple[Path, Any]], options: Options) -> Annotations:
    """See ``Format``."""
    result = Annotations([], [], [])
    for path, data in found:
        file = parse_coco(path, data)
        split = _split_of(folder.name_of(path))
        for name, image in file.images.items():
            objects = [_object(each, file.categories) for each in file.annotations[name]]
            size = image.get("width"), image.get("height")
            result.photos.append(folder.photo(name, path, objects, split=split, size=size))
        result.files.append(path)
        result.classes += [name for _, name in sorted(file.categories.items()) if name not in result.classes]
        every = [each for listed in file.annotations.values() for each in listed]
        # no other tool writes the attribute "occluded" of every shape
        if every and all(fits(each, attributes=dict) and "occluded" in each["attributes"] for each in every):
            result.crowds_are_objects = "CVAT writes every mask as a crowd"
    return result


def _split_of(name: str) -> str | None:
    """The split of an annotation file, by its folder or by a word of its name."""
    words = (SPLIT_WORDS.get(word) for word in re.findall("[a-z]+", name.rpartition("/")[2].lower()))
    return split_of(name) or next(filter(None, words), None)


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
    if not _is_coco(data) or not all(isinstance(item, dict) for key in LISTS for item in data[key]):
        raise UserError(f"{path} is not a COCO file: {ADVICE}")
    categories = _categories(path, data["categories"])
    images: dict[str, dict[str, Any]] = {}
    names: dict[Any, str] = {}
    for image in data["images"]:
        number, name = image.get("id"), image.get("file_name")
        if not fits(image, id=int | str, file_name=str):
            raise UserError(f"{path}: an image has no id or no file_name: {image}: give it both")
        if number in names or name in images:
            raise UserError(f"{path} lists the image {number} {name!r} twice: remove one")
        images[name], names[number] = image, name
    annotations: dict[str, list[dict[str, Any]]] = {name: [] for name in images}
    for annotation in data["annotations"]:
        which = f"annotation {annotation.get('id')} of {path}"
        image_id, number = annotation.get("image_id"), annotation.get("category_id")
        if not _listed(image_id, names):
            raise UserError(f"{which} belongs to image {image_id}, which is not listed: add it")
        if not _listed(number, categories):
            there = ", ".join(f"{each} {name}" for each, name in sorted(categories.items())) or "none"
            raise UserError(f"{which} has category {number}, which is not listed (listed: {there}): add it")
        annotations[names[image_id]].append(annotation)
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
