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
ADVICE = "it needs the lists images, categories and annotations"


def _is_coco(data: Any) -> bool:
    return fits(data, images=list, categories=list, annotations=list)


find = partial(SourceFolder.documents, is_wanted=_is_coco)


@dataclass(frozen=True)
class CocoFile:
    """One annotation file: category names by id, images and their annotations by file name."""

    categories: dict[int, str]
    images: dict[str, dict[str, Any]]
    annotations: dict[str, list[dict[str, Any]]]


def read(folder: SourceFolder, found: Iterator[tuple[Path, Any]], options: Options) -> Annotations:
    """See ``Format``."""
    result = Annotations([])
    for path, data in found:
        file = parse_coco(path, data)
        split = _split_of(folder.name_of(path))
        for name, image in file.images.items():
            objects = [_object(each, file.categories) for each in file.annotations[name]]
            size = image.get("width"), image.get("height")
            result.photos.append(folder.photo(name, path, objects, split=split, size=size))
        result.classes += [name for _, name in sorted(file.categories.items()) if name not in result.classes]
        every = [each for listed in file.annotations.values() for each in listed]
        # CVAT writes every mask as a crowd; no other tool writes the attribute "occluded" of every shape
        from_cvat = bool(every) and all(fits(each.get("attributes"), occluded=bool) for each in every)
        result.crowds_are_objects |= from_cvat
    return result


def _split_of(name: str) -> str | None:
    """The split of an annotation file, by its folder or by a word of its name."""
    words = (SPLIT_WORDS.get(word) for word in re.findall("[a-z]+", name.rpartition("/")[2].lower()))
    return split_of(name) or next(filter(None, words), None)


def _object(annotation: Mapping[str, Any], categories: Mapping[int, str]) -> SourceObject:
    label, outline = f"annotation {annotation.get('id')}", partial(_outline, annotation.get("segmentation"))
    return SourceObject(
        label, categories[annotation["category_id"]], outline, bool(annotation.get("iscrowd"))
    )


def _outline(segmentation: Any, width: int, height: int) -> Any:
    if not segmentation:
        raise ValueError("has no segmentation, and Mask R-CNN learns from masks")
    return segmentation


def parse_coco(path: Path, data: Any) -> CocoFile:
    """Check that the parts of an annotation file fit together.

    Raises:
        UserError: it is not such a file, lists something twice, or refers to something that it does not list.
    """
    lists = ("images", "categories", "annotations")
    if not _is_coco(data) or not all(isinstance(item, dict) for key in lists for item in data[key]):
        raise UserError(f"{path} is not a COCO file: {ADVICE}")
    categories = _names(path, "category", data["categories"], "name", int)
    names = _names(path, "image", data["images"], "file_name", int | str)
    annotations: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for annotation in data["annotations"]:
        which = f"annotation {annotation.get('id')} of {path}"
        if not fits(annotation, image_id=int | str) or annotation["image_id"] not in names:
            raise UserError(
                f"{which} belongs to image {annotation.get('image_id')}, which is not listed: add it"
            )
        if not fits(annotation, category_id=int) or annotation["category_id"] not in categories:
            there = ", ".join(f"{each} {name}" for each, name in sorted(categories.items())) or "none"
            number = annotation.get("category_id")
            raise UserError(f"{which} has category {number}, which is not listed (listed: {there}): add it")
        annotations[names[annotation["image_id"]]].append(annotation)
    return CocoFile(categories, {image["file_name"]: image for image in data["images"]}, annotations)


def _names(path: Path, what: str, items: Sequence[dict[str, Any]], key: str, id_type: Any) -> dict[Any, str]:
    """Id → name of the listed images or categories; each must have both, and none may be listed twice."""
    names: dict[Any, str] = {}
    taken = set()
    for item in items:
        number, name = item.get("id"), item.get(key)
        if not isinstance(number, id_type) or not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: this {what} has no id or no {key}: {item}: give it both")
        if number in names or name in taken:
            raise UserError(f"{path} lists the {what} {number} {name!r} twice: remove one")
        names[number] = name
        taken.add(name)
    return names


def write(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
    """See ``Format``: Roboflow's layout, a folder per split."""
    for split, photos in splits.items():
        write_json(root / split / "_annotations.coco.json", coco_document(classes, photos))
