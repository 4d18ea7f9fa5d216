"""Import annotations of any known format into the one layout."""

import contextlib
import hashlib
import itertools
import posixpath
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from finetune.data.conversion import convert_photo, crowd_notes
from finetune.data.dataset import Photo, already_made, write_dataset
from finetune.data.formats import FORMATS, Format, load_format
from finetune.data.formats.source import (
    PHOTO_SUFFIXES,
    Annotations,
    Options,
    SourceFolder,
    SourcePhoto,
    listing,
)
from finetune.data.split import grouping, plan_splits
from finetune.data.unzip import unpack
from finetune.errors import UserError
from finetune.files import sha256_of


def import_dataset(
    source: Path,
    root: Path,
    options: Options,
    *,
    format_name: str | None = None,
    images: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Import photos and their annotations.

    Args:
        source: a folder, a zip, or one annotation file.
        root: the folder to make. force: replace the data set there.
        format_name: one of ``finetune.data.formats.FORMATS``; None to recognize it.
        images: the folder of the photos, if they are not in ``source``.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: what is wrong with the source, a photo or an object; nothing is written then.
    """
    with _opened(source, images) as folder:
        chosen = load_format(format_name) if format_name else recognize(folder)
        annotations = read_annotations(chosen, folder, options)
        listed = {photo.path for photo in annotations.photos}
        if unlisted := [name for name, path in folder.photos.items() if path not in listed]:
            annotations.notes.append(
                f"left out: {len(unlisted)} photos without annotations ({listing(unlisted)}); --negatives DIR adds "
                "photos that show no object"
            )
        if options.negatives:
            annotations.negatives = negative_photos(options.negatives)
        line = f"{chosen.TITLE} annotations {_digest(annotations)}: {options}"
        if card := already_made(root, line, force):
            return card
        return write_annotations(annotations, root, options, name=root.name, source=line)


def recognize(folder: SourceFolder) -> Format:
    """The format of a folder.

    Raises:
        UserError: no format fits, or several do.
    """
    reasons = {}
    for name in FORMATS:
        each = load_format(name)
        if found := [folder.name_of(path) for path, _ in each.find(folder, sniff=True)]:
            reasons[name] = f"{listing(found)} with {each.CONTENT}"
    if not reasons:
        raise UserError(
            f"{folder.path} holds no annotations of a known format ({', '.join(FORMATS)}): export them again, next "
            "to the photos, or name the format with --format"
        )
    if len(reasons) > 1:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UserError(f"{folder.path} fits several formats ({listed}): choose one with --format")
    ((name, reason),) = reasons.items()
    chosen = load_format(name)
    click.echo(f"recognized as {chosen.TITLE}: {reason}", err=True)
    return chosen


def read_annotations(chosen: Format, folder: SourceFolder, options: Options) -> Annotations:
    """Read all annotations of a folder.

    Raises:
        UserError: there are none of this format, or they are damaged.
    """
    found = chosen.find(folder)
    first = next(found, None)
    if not first:
        raise UserError(f"{folder.path} holds no {chosen.TITLE} file: {chosen.ADVICE}")
    annotations = chosen.read(folder, itertools.chain([first], found), options)
    if not annotations.photos:
        files = listing(map(str, annotations.files))
        raise UserError(f"{files} lists no photos: annotate some and export again")
    return annotations


@contextlib.contextmanager
def _opened(source: Path, images: Path | None) -> Iterator[SourceFolder]:
    if not source.is_file() or source.suffix.lower() in (".json", ".xml"):
        yield SourceFolder(source, images)
        return
    if not zipfile.is_zipfile(source):
        raise UserError(f"{source} is neither a folder, a zip nor a JSON or XML file: give one of these")
    with tempfile.TemporaryDirectory(prefix="maskrcnn-import-") as scratch:
        try:
            unpack(source, Path(scratch))
            yield SourceFolder(Path(scratch), images)
        except UserError as error:  # the temporary folder means nothing to the user
            raise UserError(error.message.replace(scratch, str(source))) from None


def write_annotations(
    annotations: Annotations,
    root: Path,
    options: Options,
    *,
    name: str,
    source: str,
) -> dict[str, Any]:
    """Write annotations as a data set; see ``import_dataset`` for the result and the errors."""
    photos = _usable_photos(annotations, options)
    classes = _classes(annotations, photos, options.class_name)
    group_of = grouping(options.group_by)
    given = {key: photo.split for key, photo in photos.items()}
    plan = plan_splits(given, options.val, options.test, options.seed, group_of)
    if negatives := annotations.negatives:  # they are spread over the splits
        photos |= negatives
        enough = len(negatives) >= len(plan)
        val = options.val if enough and "val" in plan else 0
        test = options.test if enough and "test" in plan else 0
        for split, names in plan_splits(dict.fromkeys(negatives), val, test, options.seed, group_of).items():
            plan[split] = plan[split] + names
    bases = Counter(posixpath.basename(key) for key in photos)
    short = {key: base if bases[base := posixpath.basename(key)] == 1 else key for key in photos}
    with tqdm(total=len(photos), desc="importing", unit="photo", leave=False, disable=None) as bar:

        def convert(names: Sequence[str]) -> Iterator[Photo]:
            for key in names:
                photo = convert_photo(photos[key], classes, annotations, options)
                yield replace(photo, name=short[key], group=group_of(key) if options.group_by else None)
                bar.update()

        splits = {split: convert(names) for split, names in plan.items()}
        card = write_dataset(root, name=name, classes=classes, source=source, splits=splits)
    for note in [*annotations.notes, *crowd_notes(annotations)]:
        click.echo(note, err=True)
    return card


def _digest(annotations: Annotations) -> str:
    """Twelve digits that change when an annotation file does, or the size of a photo, or which photos there are."""
    every = hashlib.sha256()
    for path in annotations.files:
        every.update(sha256_of(path).encode())
    for photo in (*annotations.photos, *annotations.negatives.values()):
        if not photo.problem:
            every.update(f"{photo.name} {photo.path.stat().st_size}\n".encode())
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


def negative_photos(path: Path) -> dict[str, SourcePhoto]:
    """The photos of a folder and its subfolders as photos that show no object, by name."""
    folder = SourceFolder(path)
    if not folder.photos:
        raise UserError(f"--negatives {path} holds no photos ({', '.join(PHOTO_SUFFIXES)}): check the path")
    named = {f"negatives/{name}": file for name, file in folder.photos.items()}
    return {name: SourcePhoto(file, name, ()) for name, file in named.items()}
