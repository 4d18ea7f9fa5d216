"""Validate a data set before training on it."""

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
from finetune.data.formats.coco import CocoFile, parse_coco
from finetune.data.masks import clean_polygon, to_rle
from finetune.data.photos import difference_hash, near_pairs, open_photo, photo_path, upright_size
from finetune.errors import UserError
from finetune.files import read_json, sha256_of

SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}  # COCO's: below so many pixels of mask
FEW = 10  # objects of a class in train, below which a warning says so
RARE = 0.1  # share of the train photos that show a class, below which repeating them is suggested
SHOWN = 30  # errors, and warnings, printed at most


@dataclass
class CheckedPhoto:
    """What a split holds of one photo."""

    name: str
    split: str
    empty: bool  # of annotations
    digest: str = ""  # SHA-256 of the file
    look: Any = None  # difference hash
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
    """Check a data set in our layout: files, sizes, classes, polygons, photos shared by two splits.

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
    for name, image in file.images.items():
        photo = CheckedPhoto(name, split, empty=not file.annotations[name])
        report.photos.append(photo)
        size = image.get("width"), image.get("height")
        if not all(isinstance(each, int) for each in size):
            report.errors.append(f"{path.name} has no width and height of {name}: make the data set again")
            continue
        try:
            _check_file(root, photo, size)
        except UserError as error:
            report.errors.append(str(error))
        _check_objects(photo, file, size, report)


def _check_file(root: Path, photo: CheckedPhoto, size: tuple[Any, Any]) -> None:
    """Check that a photo is inside the folder, whole, and of the listed size."""
    path = photo_path(root, photo.name)
    with open_photo(path) as image:
        actual = upright_size(image)
        photo.look = difference_hash(image)
    photo.digest = sha256_of(path)
    if actual != size:
        listed, real = "x".join(map(str, size)), "x".join(map(str, actual))
        raise UserError(f"{photo.split}.json says {listed} pixels for {photo.name}, which has {real}")


def _check_objects(photo: CheckedPhoto, file: CocoFile, size: tuple[Any, Any], report: Report) -> None:
    for annotation in file.annotations[photo.name]:
        where = f"{photo.split}.json: annotation {annotation.get('id')} ({photo.name})"
        try:
            area, outside = _measure(annotation, *size)
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


def _measure(annotation: Mapping[str, Any], width: int, height: int) -> tuple[float, float]:
    """The area of an object, and how many pixels it reaches out of the photo.

    Raises:
        ValueError: what is wrong with it.
    """
    segmentation, outside = annotation.get("segmentation"), 0.0
    if not segmentation:
        raise ValueError("has no segmentation")
    if isinstance(segmentation, list):
        for polygon in segmentation:
            clean_polygon(polygon, width, height)
            points = np.reshape(polygon, (-1, 2))
            outside = max(outside, *-points.min(axis=0), *(points.max(axis=0) - (width, height)))
    area = coco_mask.area(to_rle(segmentation, width, height))
    if not area:
        raise ValueError("has an empty mask")
    box = annotation.get("bbox")
    numbers = [each for each in box if isinstance(each, int | float)] if isinstance(box, list) else []
    if len(numbers) != 4 or not min(numbers[2:]) > 0:
        raise ValueError("has no box (x, y, width and height) of a size above 0")
    return area, outside


def _check_counts(split: str, report: Report) -> None:
    photos = report.of(split)
    if not photos:
        report.errors.append(f"{split} has no photos: make the data set again with a share for it")
    elif not report.objects(split):
        crowds = sum(photo.crowds for photo in photos)
        cure = "import it again with --crowd object" if crowds else "annotate some"
        report.errors.append(f"{split} has no object that training sees ({crowds} are crowds): {cure}")
    if empty := sum(photo.empty for photo in photos):
        report.notes.append(f"{empty} of {len(photos)} photos in {split} show no object")


def _check_classes(report: Report) -> None:
    """Warn about classes with few objects, and say what sampling can do about rare ones."""
    photos, counts, classes = report.of("train"), report.objects("train"), report.card["classes"]
    for name in classes:
        share = sum(any(name == each for each, _ in photo.objects) for photo in photos) / max(len(photos), 1)
        if counts[name] < FEW:
            report.warnings.append(
                f"only {counts[name]} objects of class {name!r} in train: annotate at least {FEW}, or drop the class"
            )
        if len(classes) > 1 and 0 < share < RARE:
            report.warnings.append(
                f"class {name!r} is in {share:.0%} of the train photos: training with FINETUNE.REPEAT_THRESHOLD {RARE} "
                f"shows them {(RARE / share) ** 0.5:.1f} times as often"
            )


def _check_copies(report: Report) -> None:
    """Find photos that are there twice, and photos in two splits that look alike."""
    contents: dict[str, CheckedPhoto] = {}
    for photo in report.photos:
        if photo.digest and (other := contents.setdefault(photo.digest, photo)) is not photo:
            level = report.warnings if other.split == photo.split else report.errors
            level.append(
                f"{photo.name} in {photo.split} and {other.name} in {other.split} are the same photo: remove one"
            )
    unique = list(contents.values())
    for i, j in near_pairs([photo.look for photo in unique]):
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
        counts = [len(photos), sum(photo.empty for photo in photos), sizes.total()]
        rows.append([split, *counts, *(sizes[key] for key in SIZES), sum(photo.crowds for photo in photos)])
    click.echo(f"{card.get('name')}: {card.get('source', 'source unknown')}\n")
    click.echo(tabulate(rows, headers=["split", "photos", "empty", "objects", *SIZES, "crowds"]))
    click.echo("(by area of the mask: small below 32², large from 96² pixels; training ignores crowds)\n")
    rows = [[name, *(report.objects(split)[name] for split in splits)] for name in card["classes"]]
    click.echo(tabulate(rows, headers=["class", *splits]) + "\n")
    for kind, lines in (("error", report.errors), ("warning", report.warnings), ("note", report.notes)):
        for line in lines[:SHOWN]:
            click.echo(f"{kind}: {line}")
        if len(lines) > SHOWN:
            click.echo(f"… and {len(lines) - SHOWN} more of these")
    click.echo(f"\n{len(report.errors)} errors, {len(report.warnings)} warnings")
