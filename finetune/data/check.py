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

from finetune.data.dataset import SPLITS, read_card
from finetune.data.duplicates import difference_hash, near_pairs
from finetune.data.masks import polygon_area, to_rle
from finetune.data.photos import open_photo, photo_path, upright_size
from finetune.errors import UserError
from finetune.files import read_json

SMALL, MEDIUM = 32**2, 96**2  # upper bounds of COCO's size classes, in pixels of mask
FEW = 10  # objects of a class in train, below which a warning says so
SHOWN = 30  # errors, and warnings, printed at most


@dataclass
class Report:
    """What was found: ``errors`` break training or falsify its numbers, ``warnings`` may be intended."""

    card: dict[str, Any]
    photos: Counter[str] = field(default_factory=Counter)  # by split
    empty: Counter[str] = field(default_factory=Counter)
    objects: Counter[tuple[str, str]] = field(default_factory=Counter)  # by split and class, without crowds
    photos_with: Counter[tuple[str, str]] = field(default_factory=Counter)  # by split and class
    crowds: Counter[str] = field(default_factory=Counter)  # by split: training ignores these
    sizes: Counter[tuple[str, str]] = field(default_factory=Counter)  # by split and small, medium, large
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hashes: list[tuple[str, str, np.ndarray]] = field(default_factory=list)  # split, name, difference hash


def check_dataset(root: Path) -> Report:
    """Check a data set in our layout: files, sizes, ids, classes, polygons, photos shared by two splits.

    Raises:
        UserError: there is no data set.
    """
    report = Report(read_card(root))
    image_ids: set[Any] = set()
    contents: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        if not (root / f"{split}.json").is_file():
            level = report.errors if split == "train" else report.warnings
            level.append(f"there is no {split}.json: make the data set again with a share for it")
            continue
        try:
            _check_split(root, split, report, image_ids, contents)
        except UserError as error:
            report.errors.append(str(error))
        except (
            TypeError,
            ValueError,
            OverflowError,
        ) as error:  # an id that is a list, a width that is a word, …
            report.errors.append(f"{split}.json is damaged ({error}): make the data set again")
        splits = report.card.get("splits")
        listed = splits.get(split) if isinstance(splits, dict) else None
        if listed != report.photos[split]:
            report.warnings.append(f"dataset.json counts {listed} photos in {split}: correct it")
        if report.photos[split] and not any(report.objects[split, name] for name in report.card["classes"]):
            crowds = f" ({report.crowds[split]} are marked iscrowd)" if report.crowds[split] else ""
            cure = "import it again with --crowd object" if crowds else "annotate some"
            report.errors.append(f"{split} has no object that training sees{crowds}: {cure}")
    _check_classes(report)
    _check_near_duplicates(report)
    return report


def _check_classes(report: Report) -> None:
    """Warn about classes with few objects, and say what sampling can do about rare ones."""
    photos = report.photos["train"]
    for name in report.card["classes"]:
        count = report.objects["train", name]
        if not count:
            report.warnings.append(f"no object of class {name!r} in train: annotate some or drop the class")
        elif count < FEW:
            report.warnings.append(
                f"only {count} objects of class {name!r} in train: annotate at least {FEW}"
            )
        if (
            count
            and len(report.card["classes"]) > 1
            and (share := report.photos_with["train", name] / photos) < 0.1
        ):
            factor = max((0.1 / share) ** 0.5, 1)
            report.warnings.append(
                f"class {name!r} is in {share:.0%} of the train photos: training with FINETUNE.REPEAT_THRESHOLD 0.1 "
                f"shows them {factor:.1f} times as often"
            )


def _check_near_duplicates(report: Report) -> None:
    for i, j in near_pairs([each for _, _, each in report.hashes]):
        (split, name, _), (other_split, other, _) = report.hashes[i], report.hashes[j]
        if split != other_split:
            report.warnings.append(
                f"{name} in {split} and {other} in {other_split} look alike: if they show one scene, import again with "
                "--group-by"
            )


def _check_split(
    root: Path, split: str, report: Report, image_ids: set[Any], contents: dict[str, tuple[str, str]]
) -> None:
    path, classes = root / f"{split}.json", report.card["classes"]
    coco = read_json(path)
    parts = [
        coco.get(key) if isinstance(coco, dict) else None for key in ("images", "categories", "annotations")
    ]
    if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in parts):
        raise UserError(
            f"{path} lacks one of the lists images, categories, annotations: make the data set again"
        )
    names = {category.get("id"): category.get("name") for category in coco["categories"]}
    for name in set(map(str, names.values())) - set(classes):
        report.errors.append(
            f"{path.name} has the class {name!r} that dataset.json lacks: add it there or remove it"
        )

    sizes: dict[Any, tuple[int, int]] = {}
    counts: Counter[Any] = Counter()
    classes_of: dict[Any, set[str]] = {}
    labels: dict[Any, str] = {}
    for image in coco["images"]:
        number, name = image.get("id"), str(image.get("file_name"))
        if number in image_ids:
            report.errors.append(f"{path.name}: image id {number} ({name}) is used twice: give each its own")
        image_ids.add(number)
        labels[number] = name
        sizes[number] = (int(image.get("width") or 0), int(image.get("height") or 0))
        report.photos[split] += 1
        _check_photo(root, split, name, sizes[number], report, contents)
    annotation_ids: Counter[Any] = Counter()
    for annotation in coco["annotations"]:
        where = f"{path.name}: annotation {annotation.get('id')}"
        annotation_ids[annotation.get("id")] += 1
        image_id = annotation.get("image_id")
        if image_id not in sizes:
            report.errors.append(f"{where} belongs to image {image_id}, which is not listed: remove it")
            continue
        counts[image_id] += 1
        where += f" ({labels[image_id]})"
        class_name = names.get(annotation.get("category_id"))
        if class_name is None:
            number = annotation.get("category_id")
            report.errors.append(
                f"{where} has category {number}, which is not listed: list it or remove this one"
            )
        _check_annotation(where, annotation, sizes[image_id], report, split, str(class_name))
        if not annotation.get("iscrowd"):
            classes_of.setdefault(image_id, set()).add(str(class_name))
    for number, times in annotation_ids.items():
        if times > 1:
            report.errors.append(f"{path.name}: annotation id {number} is used {times} times: renumber them")
    for found in classes_of.values():
        report.photos_with.update((split, each) for each in found)
    report.empty[split] = sum(1 for number in sizes if not counts[number])
    if not sizes:
        report.errors.append(f"{path.name} has no photos: make the data set again with a share for {split}")
    elif report.empty[split]:
        report.notes.append(f"{report.empty[split]} of {len(sizes)} photos in {split} show no object")


def _check_photo(
    root: Path,
    split: str,
    name: str,
    size: tuple[int, int],
    report: Report,
    contents: dict[str, tuple[str, str]],
) -> None:
    """Check one file: inside the folder, readable to the end, of the listed size, not in another split."""
    try:
        path = photo_path(root, name)
        with open_photo(path) as image:
            actual = upright_size(image)
            difference = difference_hash(image)
    except UserError as error:
        report.errors.append(str(error))
        return
    if actual != size:
        listed, real = "x".join(map(str, size)), "x".join(map(str, actual))
        report.errors.append(
            f"{split}.json says {listed} pixels for {name}, which has {real}: correct it there"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest not in contents:
        contents[digest] = (split, name)
        report.hashes.append((split, name, difference))
        return
    other_split, other = contents[digest]
    if other_split == split:
        report.warnings.append(f"{name} and {other} in {split} are the same photo: remove one")
    else:
        report.errors.append(f"{name} in {split} and {other} in {other_split} are the same photo: remove one")


def _check_annotation(
    where: str, annotation: Mapping[str, Any], size: tuple[int, int], report: Report, split: str, name: str
) -> None:
    """Check box and segmentation of one object, and count it."""
    problem, outside = segmentation_problem(annotation.get("segmentation"), *size)
    if problem:
        report.errors.append(f"{where} {problem}: correct or remove it")
        return
    if outside:
        report.warnings.append(f"{where} reaches {outside:.1f} pixels out of the image: clip it")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        report.errors.append(f"{where} has no box of four numbers: make the data set again")
    elif not (box[2] > 0 and box[3] > 0):
        report.errors.append(f"{where} has a box of no size ({box[2]} x {box[3]}): correct or remove it")
    area = annotation.get("area")
    if not isinstance(area, int | float) or area <= 0:
        report.errors.append(f"{where} has no area: make the data set again")
        return
    if annotation.get("iscrowd"):
        report.crowds[split] += 1
        return
    report.objects[split, name] += 1
    report.sizes[split, "small" if area < SMALL else "medium" if area < MEDIUM else "large"] += 1


def segmentation_problem(segmentation: Any, width: int, height: int) -> tuple[str, float]:
    """What makes a segmentation useless ("" if nothing), and how many pixels it reaches outside."""
    if isinstance(segmentation, dict):
        try:
            mask = to_rle(segmentation, width, height)
        except ValueError as error:
            return str(error), 0
        return ("" if coco_mask.area(mask) else "has an empty mask"), 0
    if not isinstance(segmentation, list) or not segmentation:
        return "has no segmentation", 0
    outside = 0.0
    for polygon in segmentation:
        try:
            points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            return "has a polygon whose coordinates are not numbers in pairs", 0
        if not np.isfinite(points).all():
            return "has a polygon with coordinates that are not finite numbers", 0
        if len(np.unique(points, axis=0)) < 3:
            return f"has a polygon with {len(np.unique(points, axis=0))} different points (3 are needed)", 0
        if polygon_area(points) == 0:
            return "has a polygon without area", 0
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            return f"has a polygon outside the image ({width} x {height})", 0
        outside = max(outside, -x0, -y0, x1 - width, y1 - height)
    return "", outside


def print_report(report: Report) -> None:
    """Print what training will see as tables, then errors, warnings and notes, one a line."""
    card = report.card
    click.echo(f"{card.get('name')}: {card.get('source', 'source unknown')}")
    click.echo(
        f"\n{'split':<8}{'photos':>8}{'empty':>8}{'objects':>9}{'small':>8}{'medium':>8}{'large':>8}{'crowds':>8}"
    )
    for split in SPLITS:
        if split in report.photos:
            sizes = [report.sizes[split, size] for size in ("small", "medium", "large")]
            row = [*sizes, report.crowds[split]]
            click.echo(
                f"{split:<8}{report.photos[split]:>8}{report.empty[split]:>8}{sum(sizes):>9}"
                + "".join(f"{n:>8}" for n in row)
            )
    click.echo(
        "(by area of the mask: small below 32 x 32 pixels, large from 96 x 96; training ignores crowds)"
    )
    width = max(len("class"), *map(len, card["classes"])) + 2
    click.echo(f"\n{'class':<{width}}" + "".join(f"{split:>8}" for split in SPLITS))
    for name in card["classes"]:
        click.echo(f"{name:<{width}}" + "".join(f"{report.objects[split, name]:>8}" for split in SPLITS))
    for kind, lines in (("error", report.errors), ("warning", report.warnings), ("note", report.notes)):
        if lines:
            click.echo()
        for line in lines[:SHOWN]:
            click.echo(f"{kind}: {line}")
        if len(lines) > SHOWN:
            click.echo(f"… and {len(lines) - SHOWN} more of these")
    click.echo(f"\n{len(report.errors)} errors, {len(report.warnings)} warnings")
