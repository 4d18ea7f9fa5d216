"""Validate a data set before training on it."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from pycocotools import mask as coco_mask
from tabulate import tabulate

from finetune.data.dataset import SPLITS, read_card, splits_of
from finetune.data.duplicates import difference_hash, near_pairs
from finetune.data.formats.coco import parse_coco
from finetune.data.masks import clean_polygon, to_rle
from finetune.data.photos import open_photo, photo_path, upright_size
from finetune.errors import UserError
from finetune.files import read_json

SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}  # COCO's: below so many pixels of mask
FEW = 10  # objects of a class in train, below which a warning says so
RARE = 0.1  # share of the train photos that show a class, below which repeating them is suggested
SHOWN = 30  # errors, and warnings, printed at most


@dataclass
class CheckedPhoto:
    """What a split holds of one photo."""

    name: str
    split: str
    image_id: int | str
    annotations: int
    digest: str = ""  # SHA-256 of the file
    look: np.ndarray | None = None  # difference hash
    objects: list[tuple[str, str]] = field(default_factory=list)  # class and size of those that training sees
    crowds: int = 0


@dataclass
class Report:
    """What was found: ``errors`` break training or falsify its numbers, ``warnings`` may be intended."""

    card: dict[str, Any]
    photos: list[CheckedPhoto] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, split: str) -> list[CheckedPhoto]:
        """The photos of a split."""
        return [photo for photo in self.photos if photo.split == split]

    def objects(self, split: str) -> Counter[str]:
        """The objects of a split, by class."""
        return Counter(name for photo in self.of(split) for name, _ in photo.objects)


def check_dataset(root: Path) -> Report:
    """Check a data set in our layout: files, sizes, ids, classes, polygons, photos shared by two splits.

    Raises:
        UserError: there is no data set.
    """
    report = Report(read_card(root))
    for split in SPLITS:
        if split in splits_of(root):
            try:
                _check_split(root, split, report)
            except UserError as error:
                report.errors.append(str(error))
            else:
                _check_counts(split, report)
        else:
            level = report.errors if split == "train" else report.warnings
            level.append(f"there is no {split}.json: make the data set again with a share for it")
    _check_classes(report)
    _check_copies(report)
    return report


def _check_split(root: Path, split: str, report: Report) -> None:
    path = root / f"{split}.json"
    file = parse_coco(path, read_json(path, cure="make the data set again"))
    for name in sorted(set(file.categories.values()) - set(report.card["classes"])):
        report.errors.append(f"{path.name} has the class {name!r} that dataset.json lacks: add or remove it")
    used = Counter(str(each.get("id")) for listed in file.annotations.values() for each in listed)
    for number, times in used.items():
        if times > 1:
            report.errors.append(f"{path.name}: annotation id {number} is used {times} times: renumber them")
    for name, image in file.images.items():
        photo = CheckedPhoto(name, split, image["id"], len(file.annotations[name]))
        report.photos.append(photo)
        width, height = image.get("width"), image.get("height")
        if not isinstance(width, int) or not isinstance(height, int):
            report.errors.append(f"{path.name} has no width and height of {name}: make the data set again")
            continue
        _check_file(root, photo, (width, height), report)
        for annotation in file.annotations[name]:
            where = f"{path.name}: annotation {annotation.get('id')} ({name})"
            try:
                area, outside = _measure(annotation, width, height)
            except ValueError as error:
                report.errors.append(f"{where} {error}: correct or remove it")
                continue
            if outside:
                report.warnings.append(f"{where} reaches {outside:.1f} pixels out of the image: clip it")
            if annotation.get("iscrowd"):
                photo.crowds += 1
            else:
                size_class = next(key for key, limit in SIZES.items() if area < limit)
                photo.objects.append((file.categories[annotation["category_id"]], size_class))


def _check_file(root: Path, photo: CheckedPhoto, size: tuple[int, int], report: Report) -> None:
    """Check that a photo is inside the folder, whole, and of the listed size."""
    try:
        path = photo_path(root, photo.name)
        with open_photo(path) as image:
            actual = upright_size(image)
            photo.look = difference_hash(image)
    except UserError as error:
        report.errors.append(str(error))
        return
    photo.digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != size:
        listed, real = "x".join(map(str, size)), "x".join(map(str, actual))
        report.errors.append(f"{photo.split}.json says {listed} pixels for {photo.name}, which has {real}")


def _measure(annotation: Mapping[str, Any], width: int, height: int) -> tuple[float, float]:
    """The area of an object, and how many pixels it reaches out of the photo.

    Raises:
        ValueError: what is wrong with it.
    """
    segmentation, outside = annotation.get("segmentation"), 0.0
    if isinstance(segmentation, dict):
        if not coco_mask.area(to_rle(segmentation, width, height)):
            raise ValueError("has an empty mask")
    elif not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no segmentation")
    else:
        for polygon in segmentation:
            clean_polygon(polygon, width, height)
            points = np.reshape(polygon, (-1, 2))
            outside = max(outside, *-points.min(axis=0), *(points.max(axis=0) - (width, height)))
    box, area = annotation.get("bbox"), annotation.get("area")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        raise ValueError("has no box of four numbers")
    if not (box[2] > 0 and box[3] > 0):
        raise ValueError(f"has a box of no size ({box[2]} x {box[3]})")
    if not isinstance(area, int | float) or not area > 0:
        raise ValueError("has no area")
    return area, outside


def _check_counts(split: str, report: Report) -> None:
    photos = report.of(split)
    splits = report.card.get("splits")
    listed = splits.get(split) if isinstance(splits, dict) else None
    if listed != len(photos):
        report.warnings.append(f"dataset.json counts {listed} photos in {split}: correct it")
    if not photos:
        report.errors.append(f"{split} has no photos: make the data set again with a share for it")
    elif not report.objects(split):
        crowds = sum(photo.crowds for photo in photos)
        said = f" ({crowds} are marked iscrowd)" if crowds else ""
        cure = "import it again with --crowd object" if crowds else "annotate some"
        report.errors.append(f"{split} has no object that training sees{said}: {cure}")
    if empty := sum(not photo.annotations for photo in photos):
        report.notes.append(f"{empty} of {len(photos)} photos in {split} show no object")


def _check_classes(report: Report) -> None:
    """Warn about classes with few objects, and say what sampling can do about rare ones."""
    photos, counts, classes = report.of("train"), report.objects("train"), report.card["classes"]
    for name in classes:
        count = counts[name]
        if not count:
            report.warnings.append(f"no object of class {name!r} in train: annotate some or drop the class")
            continue
        if count < FEW:
            report.warnings.append(
                f"only {count} objects of class {name!r} in train: annotate at least {FEW}"
            )
        share = sum(any(name == each for each, _ in photo.objects) for photo in photos) / len(photos)
        if len(classes) > 1 and share < RARE:
            report.warnings.append(
                f"class {name!r} is in {share:.0%} of the train photos: training with FINETUNE.REPEAT_THRESHOLD {RARE} "
                f"shows them {(RARE / share) ** 0.5:.1f} times as often"
            )


def _check_copies(report: Report) -> None:
    """Find image ids used twice, photos listed twice, and photos in two splits that look alike."""
    ids: dict[int | str, CheckedPhoto] = {}
    contents: dict[str, CheckedPhoto] = {}
    for photo in report.photos:
        if (other := ids.setdefault(photo.image_id, photo)) is not photo:
            report.errors.append(
                f"{other.name} and {photo.name} have one image id, {photo.image_id}: change one"
            )
        if photo.digest and (other := contents.setdefault(photo.digest, photo)) is not photo:
            same_split = other.split == photo.split
            where = f"{photo.name} and {other.name} in {photo.split}"
            if not same_split:
                where = f"{photo.name} in {photo.split} and {other.name} in {other.split}"
            level = report.warnings if same_split else report.errors
            level.append(f"{where} are the same photo: remove one")
    unique = list(contents.values())
    for i, j in near_pairs([photo.look for photo in unique if photo.look is not None]):
        one, other = unique[i], unique[j]
        if one.split != other.split:
            report.warnings.append(
                f"{one.name} in {one.split} and {other.name} in {other.split} look alike: if they show one scene, "
                "import again with --group-by"
            )


def print_report(report: Report) -> None:
    """Print what training will see as tables, then errors, warnings and notes, one a line."""
    card, splits = report.card, [split for split in SPLITS if report.of(split)]
    rows = []
    for split in splits:
        photos = report.of(split)
        sizes = Counter(size for photo in photos for _, size in photo.objects)
        counts = [len(photos), sum(not photo.annotations for photo in photos), sizes.total()]
        rows.append([split, *counts, *(sizes[key] for key in SIZES), sum(photo.crowds for photo in photos)])
    click.echo(f"{card.get('name')}: {card.get('source', 'source unknown')}\n")
    click.echo(tabulate(rows, headers=["split", "photos", "empty", "objects", *SIZES, "crowds"]))
    click.echo("(by area of the mask: small below 32², large from 96² pixels; training ignores crowds)\n")
    rows = [[name, *(report.objects(split)[name] for split in splits)] for name in card["classes"]]
    click.echo(tabulate(rows, headers=["class", *splits]))
    for kind, lines in (("error", report.errors), ("warning", report.warnings), ("note", report.notes)):
        if lines:
            click.echo()
        for line in lines[:SHOWN]:
            click.echo(f"{kind}: {line}")
        if len(lines) > SHOWN:
            click.echo(f"… and {len(lines) - SHOWN} more of these")
    click.echo(f"\n{len(report.errors)} errors, {len(report.warnings)} warnings")
