"""Import annotations of any known format into the one layout."""

import contextlib
import hashlib
import posixpath
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from tqdm import tqdm

from finetune.data.dataset import Instance, Photo, already_made, write_dataset
from finetune.data.formats import choose_format, coco
from finetune.data.formats.source import (
    PHOTO_SUFFIXES,
    Annotations,
    ClassChoice,
    SourceFolder,
    SourceObject,
    SourcePhoto,
    listing,
)
from finetune.data.masks import Segmentation, box_and_area, clean_polygon, encode_mask, to_mask
from finetune.data.photos import open_photo, orientation_of, upright_size
from finetune.data.split import grouping, plan_splits
from finetune.data.unzip import unpack
from finetune.errors import UserError
from finetune.files import read_json, sha256_of


@dataclass(frozen=True)
class Options:
    """How to import; the defaults are those of the command line.

    Attributes:
        class_name, class_attribute: see ``ClassChoice``.
        val, test: shares of the photos to draw for a split that the source does not have.
        group_by: see ``finetune.data.split.grouping``.
        empty: ``keep`` or ``drop`` photos that were annotated with no object.
        crowd: ``keep`` objects marked ``iscrowd`` (training ignores them), make each an ``object``, or ``drop`` them;
            ``auto`` trains on those that look like single objects.
        negatives: a folder of photos without any object, which join the splits by the same shares.
        skip_bad: leave out objects and photos that cannot be used, instead of stopping at the first.
    """

    class_name: str | None = None
    class_attribute: str | None = None
    val: float = 0.2
    test: float = 0.2
    seed: int = 0
    group_by: str | None = None
    empty: str = "keep"
    crowd: str = "auto"
    negatives: Path | None = None
    skip_bad: bool = False

    def __str__(self) -> str:
        return ", ".join(f"{key} {value}" for key, value in vars(self).items() if value is not None)


def import_dataset(
    source: Path, root: Path, options: Options, *, format_name: str | None = None, force: bool = False
) -> dict[str, Any]:
    """Import a folder or zip of photos and annotations.

    Args:
        format_name: a key of ``finetune.data.formats.FORMATS``; None to recognize it.
        root: the folder to make. force: replace the data set there.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: what is wrong with the source, a photo or an object; nothing is written then.
    """
    with _opened(source) as folder:
        chosen, reason = choose_format(folder, format_name)
        if reason:
            click.echo(f"recognized as {chosen.TITLE}: {reason}", err=True)
        annotations = chosen.read(folder, ClassChoice(options.class_name, options.class_attribute))
        _note_unlisted(folder, annotations)
        return _convert(annotations, chosen.TITLE, root, options, force)


def import_coco(
    files: dict[str, tuple[Path, Path]], root: Path, options: Options, *, force: bool = False
) -> dict[str, Any]:
    """Import COCO files that lie apart from their photos.

    Args:
        files: split → (annotation file, folder of the photos); ``train`` at least.
    """
    parsed = [
        (coco.parse_coco(path, read_json(path, cure="export it again")), _PhotoFolder(images), split)
        for split, (path, images) in files.items()
    ]
    single = len(files) == 1
    annotations = coco.annotations_of(
        [(file, folder, None if single else split) for file, folder, split in parsed]
    )
    return _convert(annotations, coco.TITLE, root, options, force)


class _PhotoFolder(SourceFolder):
    """A folder of photos whose annotations lie elsewhere, as if they lay in it."""

    def name_of(self, file: Path) -> str:
        return super().name_of(file) if file.is_relative_to(self.path) else file.name

    def split_of(self, file: Path) -> str | None:
        return None


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[SourceFolder]:
    if not source.is_file():
        yield SourceFolder(source)
        return
    with tempfile.TemporaryDirectory(prefix="maskrcnn-import-") as scratch:
        unpack(source, Path(scratch))
        yield SourceFolder(Path(scratch))


def _note_unlisted(folder: SourceFolder, annotations: Annotations) -> None:
    """Say which photos have no annotations; most often a ``test`` folder that nobody annotated."""
    listed = {photo.path for photo in annotations.photos}
    if unlisted := [name for name, path in folder.photos.items() if path not in listed]:
        annotations.notes.append(
            f"left out: {len(unlisted)} photos without annotations ({listing(unlisted)}); --negatives DIR adds photos "
            "that show no object"
        )


@dataclass
class _Tally:
    """What happened to objects on the way."""

    skipped: list[str] = field(default_factory=list)
    crowds: Counter[str] = field(default_factory=Counter)


def _convert(
    annotations: Annotations, title: str, root: Path, options: Options, force: bool
) -> dict[str, Any]:
    source = f"{title} annotations {_digest(annotations)}: {options}"
    if card := already_made(root, source, force):
        return card
    return write_annotations(annotations, root, options, name=root.name, source=source)


def write_annotations(
    annotations: Annotations, root: Path, options: Options, *, name: str, source: str
) -> dict[str, Any]:
    """Write annotations as a data set; see ``import_dataset`` for the result and the errors."""
    photos = _usable_photos(annotations, options)
    classes = _classes(annotations, photos, options.class_name)
    if options.negatives:
        photos |= _negatives(options.negatives)
    given = {key: photo.split for key, photo in photos.items()}
    plan = plan_splits(given, options.val, options.test, options.seed, grouping(options.group_by))
    bases = Counter(posixpath.basename(key) for key in photos)
    short = {key: base if bases[base := posixpath.basename(key)] == 1 else key for key in photos}
    tally = _Tally()
    with tqdm(total=len(photos), desc="importing", unit="photo", leave=False, disable=None) as bar:

        def convert(names: Sequence[str]) -> Iterator[Photo]:
            for key in names:
                photo = _to_photo(photos[key], classes, annotations, options, tally)
                yield replace(photo, name=short[key])
                bar.update()

        splits = {split: convert(names) for split, names in plan.items()}
        card = write_dataset(root, name=name, classes=classes, source=source, splits=splits)
    for note in [
        *annotations.notes,
        *_crowd_notes(tally, annotations),
        *map("skipped: {}".format, tally.skipped),
    ]:
        click.echo(note, err=True)
    return card


def _digest(annotations: Annotations) -> str:
    """Twelve digits that change when an annotation file does."""
    every = hashlib.sha256()
    for path in annotations.files:
        every.update(sha256_of(path).encode())
    return every.hexdigest()[:12]


def _usable_photos(annotations: Annotations, options: Options) -> dict[str, SourcePhoto]:
    """Photos by name, in which the rules about missing and empty photos and about splits were applied.

    Raises:
        UserError: a photo is missing, or annotated twice.
    """
    photos: dict[str, SourcePhoto] = {}
    for photo in annotations.photos:
        if photo.problem:
            if not options.skip_bad:
                raise UserError(f"{photo.problem}, or leave such photos out with --skip-bad")
            annotations.notes.append(f"skipped: {photo.problem}")
        elif photo.name in photos:
            raise UserError(f"{photo.name} is annotated in two places: remove it from one of them")
        else:
            photos[photo.name] = photo
    if empty := [name for name, photo in photos.items() if not photo.objects]:
        if options.empty == "drop":
            did = "left out"
            photos = {name: photo for name, photo in photos.items() if photo.objects}
        else:
            did = "kept as examples of nothing to find"
        annotations.notes.append(
            f"{did}: {len(empty)} photos annotated with no object ({listing(empty)}); --empty keep|drop decides"
        )
    if not {"train", None} & {photo.split for photo in photos.values()}:  # folders named so by chance
        photos = {name: replace(photo, split=None) for name, photo in photos.items()}
    return photos


def _classes(annotations: Annotations, photos: dict[str, SourcePhoto], only: str | None) -> list[str]:
    """The classes that occur in training photos, in the order of the tool."""
    if not any(photo.objects for photo in photos.values()):
        raise UserError(
            f"{listing(map(str, annotations.files))} holds no annotations: annotate some objects and export again"
        )
    if only:
        return [only]
    used = {
        each.class_name
        for photo in photos.values()
        if photo.split in ("train", None)
        for each in photo.objects
        if each.class_name
    }
    order = annotations.classes or sorted(used)
    if unused := [name for name in order if name not in used]:
        annotations.notes.append(f"left out: classes without an annotation in train: {', '.join(unused)}")
    return [name for name in order if name in used]


def _negatives(path: Path) -> dict[str, SourcePhoto]:
    folder = SourceFolder(path)
    if not folder.photos:
        raise UserError(
            f"{path} holds no photos ({', '.join(PHOTO_SUFFIXES)}): check the path given with --negatives"
        )
    named = {f"negatives/{name}": file for name, file in folder.photos.items()}
    return {name: SourcePhoto(file, name, ()) for name, file in named.items()}


def _to_photo(
    photo: SourcePhoto, classes: list[str], annotations: Annotations, options: Options, tally: _Tally
) -> Photo:
    with open_photo(photo.path, decode=False) as image:
        stored, upright, orientation = image.size, upright_size(image), orientation_of(image)
    listed = photo.size or upright
    if listed not in (upright, stored):
        size, says = "x".join(map(str, upright)), "x".join(map(str, listed))
        raise UserError(
            f"{photo.path} has {size} pixels but its annotations say {says}: use the photo that was annotated"
        )
    # Some tools ignore EXIF data and draw on the photo as it is stored; the listed size gives them away.
    turn = orientation if listed != upright else 1
    instances = []
    for each in photo.objects:
        try:
            segmentation = _segmentation(each, listed, turn)
            class_name = options.class_name or each.class_name
            if class_name not in classes:
                reason = f"has the class {class_name!r}, which no training photo has"
                raise ValueError(reason if class_name else "has no class")
            iscrowd = each.iscrowd and _stays_crowd(segmentation, listed, annotations, options, tally)
            if not (iscrowd and options.crowd == "drop"):
                instances.append(Instance(classes.index(class_name), segmentation, iscrowd))
        except ValueError as error:
            trouble = f"{each.label} of {photo.path} {error}"
            if not options.skip_bad:
                raise UserError(f"{trouble}: correct it, or leave such objects out with --skip-bad") from None
            tally.skipped.append(trouble)
    return Photo(photo.name, photo.path, *upright, instances)


def _segmentation(each: SourceObject, size: tuple[int, int], orientation: int) -> Segmentation:
    """Check, clip and turn an outline; ValueError says what is wrong with it."""
    outline, (width, height) = each.outline(*size), size
    if isinstance(outline, list):
        polygons = [clean_polygon(polygon, width, height) for polygon in outline]
        if box_and_area(polygons, width, height)[1] == 0:
            raise ValueError("covers no pixel")
        return [turn_polygon(polygon, width, height, orientation) for polygon in polygons]
    mask = outline if isinstance(outline, np.ndarray) else to_mask(outline, width, height)
    if not mask.any():
        raise ValueError("has an empty mask")
    return encode_mask(turn_mask(mask, orientation))


def _stays_crowd(
    segmentation: Segmentation,
    size: tuple[int, int],
    annotations: Annotations,
    options: Options,
    tally: _Tally,
) -> bool:
    """Whether something marked ``iscrowd`` is one; counts what becomes of it."""
    single = options.crowd == "object"
    if options.crowd == "auto" and isinstance(segmentation, dict):
        height, width = segmentation["size"]
        mask = to_mask(segmentation, width, height).astype(np.uint8)
        single = bool(annotations.crowds_are_objects) or cv2.connectedComponents(mask)[0] == 2
    tally.crowds["object" if single else "drop" if options.crowd == "drop" else "keep"] += 1
    return not single


def _crowd_notes(tally: _Tally, annotations: Annotations) -> list[str]:
    says = {
        "object": f"trained on: {{}} objects marked iscrowd, as they look like single objects "
        f"({annotations.crowds_are_objects or 'each is one connected mask'}); --crowd keep|object|drop decides",
        "keep": "not trained on: {} objects marked iscrowd; --crowd object trains on them",
        "drop": "left out: {} objects marked iscrowd",
    }
    return [says[fate].format(count) for fate, count in tally.crowds.items()]


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
