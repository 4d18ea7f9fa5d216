"""The one layout of a data set on disk; every ``data`` command writes it, training and evaluation read it.

::

    DIR/dataset.json       {"name", "classes": [...], "source", "splits": {"train": 49, "val": 12, "test": 13}}
    DIR/train.json         COCO JSON: file_name relative to DIR, category ids 1.. in the order of "classes"
    DIR/val.json
    DIR/test.json
    DIR/images/*.jpg|png

Photos stand upright (no EXIF orientation); ids of images and annotations are unique over the whole data set.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import click

from finetune.data.masks import Segmentation, box_and_area
from finetune.data.photos import copy_upright
from finetune.errors import UserError
from finetune.files import new_folder, read_json, write_json

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Instance:
    """One object; ``class_id`` counts from 0, ``segmentation`` went through ``finetune.data.masks``."""

    class_id: int
    segmentation: Segmentation
    iscrowd: bool = False


@dataclass(frozen=True)
class Photo:
    """One image and its objects.

    ``image`` is a file to copy or an encoded image; the sizes are pixels of the upright image.
    """

    name: str
    image: Path | bytes
    width: int
    height: int
    instances: Sequence[Instance] = ()
    group: str | None = None
    """Of ``--group-by``: photos of one group belong to one split and one fold."""


# --- reading ------------------------------------------------------------------------------------------------


def read_card(root: Path | str) -> dict[str, Any]:
    """The contents of ``dataset.json``.

    Raises:
        UserError: there is no data set in that folder.
    """
    root = Path(root)
    if not (root / "dataset.json").is_file():
        made = "make one with `maskrcnn data import` or `maskrcnn data balloon`"
        raise UserError(f"{root} holds no data set (no dataset.json): {made}")
    card = read_json(root / "dataset.json")
    classes = card.get("classes") if isinstance(card, dict) else None
    names = [name for name in classes if isinstance(name, str)] if isinstance(classes, list) else []
    if not names or list(dict.fromkeys(names)) != classes:
        raise UserError(f"{root / 'dataset.json'} lists no classes, or one twice: make the data set again")
    return card


def class_names(root: Path | str) -> list[str]:
    """The class names of a data set, in the order of the model's class ids."""
    return list(read_card(root)["classes"])


def splits_of(root: Path) -> list[str]:
    """The splits that a data set has."""
    return [split for split in SPLITS if (root / f"{split}.json").is_file()]


def load_split(root: Path | str, split: str) -> list[dict[str, Any]]:
    """Read one split as Detectron2's standard dataset dicts.

    Returns:
        One dict per photo: ``file_name`` (absolute), ``image_id``, ``height``, ``width``, ``group`` (see
        ``Photo``), ``annotations``, each with ``bbox`` (XYXY_ABS, pixels), ``bbox_mode``, ``category_id`` (from 0),
        ``iscrowd``, ``segmentation`` (polygons, or compressed RLE; Detectron2's own training takes both with
        ``INPUT.MASK_FORMAT = "bitmask"``).

    Raises:
        UserError: the split is missing, has no photos, or names a class that the data set does not have.
    """
    root, names = Path(root), class_names(root)
    if split not in splits_of(root):
        there = ", ".join(splits_of(root)) or "none"
        raise UserError(f"the data set {root} has no split {split!r}: choose one of: {there}")
    path = root / f"{split}.json"
    coco = read_json(path)
    try:
        listed = {category["id"]: category["name"] for category in coco["categories"]}
        if unknown := [name for name in listed.values() if name not in names]:
            raise UserError(
                f"{path} has the class {unknown[0]!r} that dataset.json lacks ({', '.join(names)})"
            )
        photos = {}
        for image in coco["images"]:
            record = {key: image[key] for key in ("height", "width")} | {"group": image.get("group")}
            record |= {"file_name": str(root.resolve() / image["file_name"]), "image_id": image["id"]}
            photos[image["id"]] = record | {"annotations": []}
        for annotation in coco["annotations"]:
            x, y, width, height = annotation["bbox"]
            record = {"bbox": [x, y, x + width, y + height]}
            record["bbox_mode"] = 0  # detectron2.structures.BoxMode.XYXY_ABS, without importing torch
            record["category_id"] = names.index(listed[annotation["category_id"]])
            record["iscrowd"] = annotation.get("iscrowd", 0)
            record["segmentation"] = annotation["segmentation"]
            photos[annotation["image_id"]]["annotations"].append(record)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is damaged ({reason}): run `maskrcnn data check {root}`") from None
    if not photos:
        raise UserError(f"the split {split!r} of {root} has no photos: make the data set with more photos")
    return list(photos.values())


def read_photos(root: Path, split: str) -> list[Photo]:
    """One split as photos, the form in which ``write_dataset`` takes it.

    Raises:
        UserError: see ``load_split``.
    """
    photos = []
    for record in load_split(root, split):
        path, found = Path(record["file_name"]), record["annotations"]
        instances = [Instance(i["category_id"], i["segmentation"], bool(i["iscrowd"])) for i in found]
        photos.append(Photo(path.name, path, record["width"], record["height"], instances, record["group"]))
    return photos


# --- writing ------------------------------------------------------------------------------------------------


def already_made(root: Path, source: str, force: bool) -> dict[str, Any] | None:
    """The card of the data set at ``root`` if the same command made it, so that it need not be made again.

    Args:
        source: what ``write_dataset`` will be given. force: make it again in any case.

    Raises:
        UserError: files that are no data set lie there, or another data set and no ``force``.
    """
    _check_replaceable(root)
    if force or not (root / "dataset.json").is_file():
        return None
    card = read_card(root)
    if card.get("source") != source:
        raise UserError(f"{root} holds another data set: choose another --root, or replace it with --force")
    click.echo(f"{root} is up to date (--force makes it again)", err=True)
    return card


def _check_replaceable(root: Path) -> None:
    """Refuse to replace anything but a data set or an empty folder."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file: choose another folder with --root")
    if root.exists() and any(root.iterdir()) and not (root / "dataset.json").is_file():
        raise UserError(f"{root} holds other files: choose another folder with --root")


def write_dataset(
    root: Path,
    *,
    name: str,
    classes: Sequence[str],
    source: str,
    splits: Mapping[str, Iterable[Photo]],
    copy: bool = True,
) -> dict[str, Any]:
    """Write a data set: all of it or nothing (a folder beside ``root``, renamed at the end).

    Args:
        root: the folder to make; a data set there is replaced (ask ``already_made`` first).
        classes: class names in the order of the class ids.
        source: where it came from and how, in one line; the same line means the same data set.
        splits: photos per split; iterables are consumed one photo at a time.
        copy: copy the photos into the folder; False refers to the files where they lie.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: no classes, no training photos, an unreadable photo, or no space.
    """
    _check_replaceable(root)
    taken: set[str] = set()
    counts: dict[str, int] = {}
    ids = count(1), count(1)  # pycocotools takes an id of 0 for "no match"
    try:
        with new_folder(root) as folder:
            (folder / "images").mkdir()
            for split, photos in splits.items():
                kept = [
                    _store(photo, folder, taken) if copy else replace(photo, name=str(photo.image))
                    for photo in photos
                ]
                document = coco_document(classes, kept, ids)
                (folder / f"{split}.json").write_text(json.dumps(document))
                counts[split] = len(kept)
            if not classes:
                raise UserError("the data set has no classes: annotate at least one object")
            if not counts.get("train"):
                raise UserError("the data set has no photos to train on: annotate some, or check the paths")
            card = {"name": name, "classes": list(classes), "source": source, "splits": counts}
            write_json(folder / "dataset.json", card)
            return card
    except OSError as error:
        raise UserError(f"cannot write {root} ({error.strerror or error}): free some space") from None


def _store(photo: Photo, folder: Path, taken: set[str]) -> Photo:
    """Copy a photo upright into ``images/``; the result has no picture any more, and its new name."""
    name = f"images/{free_name(photo.name, taken)}"
    if isinstance(photo.image, bytes):
        (folder / name).write_bytes(photo.image)
    else:
        copy_upright(photo.image, folder / name)
    return replace(photo, name=name, image=b"")


def coco_document(
    classes: Sequence[str], photos: Iterable[Photo], ids: tuple[Iterator[int], Iterator[int]] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """The content of a COCO JSON file; ``ids`` number the images and the annotations."""
    image_ids, annotation_ids = ids or (count(1), count(1))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for photo in photos:
        size = {"width": photo.width, "height": photo.height}
        group = {} if photo.group is None else {"group": photo.group}
        images.append({"id": next(image_ids), "file_name": photo.name} | size | group)
        for each in photo.instances:
            box, area = box_and_area(each.segmentation, photo.width, photo.height)
            what = {"category_id": each.class_id + 1, "iscrowd": int(each.iscrowd)}
            where = {"bbox": box, "area": area, "segmentation": each.segmentation}
            annotations.append({"id": next(annotation_ids), "image_id": images[-1]["id"]} | what | where)
    categories = [{"id": i, "name": class_name} for i, class_name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def free_name(name: str, taken: set[str]) -> str:
    """A file name for ``images/`` that no other photo has, not even in other case (some systems fold it)."""
    path = Path(re.sub(r"[^\w.\-]+", "_", name.replace("\\", "/").replace("/", "_"), flags=re.ASCII))
    free, number = path.name.lstrip(".") or "photo", 1
    while free.lower() in taken:
        number += 1
        free = f"{path.stem.lstrip('.')}_{number}{path.suffix}"
    taken.add(free.lower())
    return free
