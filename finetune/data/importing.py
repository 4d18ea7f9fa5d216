"""Import annotations of any known format into the one layout."""

import contextlib
import hashlib
import itertools
import lzma
import posixpath
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from finetune.data.conversion import convert_photo
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
from finetune.errors import UserError
from finetune.files import sha256_of

NEGATIVES = "negatives"
"""The names of photos from ``--negatives`` begin with it as with a folder."""

MAX_FILES = 200_000
MAX_RATIO = 100  # unpacked to packed; photos hardly shrink, label files about ten times
FREE_BYTES = 100_000_000  # may be unpacked whatever the ratio


def import_dataset(source: Path, root: Path, options: Options, *, force: bool = False) -> dict[str, Any]:
    """Import photos and their annotations.

    Args:
        source: a folder, a zip, or one annotation file.
        root: the folder to make. force: replace the data set there.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: what is wrong with the source, a photo or an object; nothing is written then.
    """
    with opened(source, options.images) as folder:
        chosen = load_format(options.format_name) if options.format_name else recognize(folder)
        annotations = read_annotations(chosen, folder, options)
        listed = {photo.path for photo in annotations.photos}
        if unlisted := [name for name, path in folder.photos.items() if path not in listed]:
            annotations.notes.append(
                f"left out: {len(unlisted)} photos without annotations ({listing(unlisted)}); --negatives DIR adds "
                "photos that show no object"
            )
        negatives = negative_photos(options.negatives) if options.negatives else {}
        digest = _digest(folder, (*annotations.photos, *negatives.values()))
        line = f"{chosen.TITLE} annotations {digest}: {options}"
        if card := already_made(root, line, force):
            return card
        return write_annotations(annotations, root, options, negatives, name=root.name, source=line)


@contextlib.contextmanager
def opened(source: Path, images: Path | None = None) -> Iterator[SourceFolder]:
    """The files of a folder, a zip or one annotation file; see ``import_dataset``."""
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


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip, but no bomb; Python's zipfile writes no links, and nothing outside of ``folder``.

    Raises:
        UserError: it is damaged, larger than ``MAX_RATIO`` times its size, or does not fit on the disk.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            total = sum(member.file_size for member in members)
            limit = max(archive.stat().st_size * MAX_RATIO, FREE_BYTES)
            if len(members) > MAX_FILES or total > limit:
                raise UserError(
                    f"{archive} unpacks to {len(members):,} files of {total:,} bytes, more than the {limit:,} bytes "
                    "allowed for it: make the zip again"
                )
            if total > shutil.disk_usage(folder).free:
                raise UserError(f"{archive} unpacks to {total:,} bytes, more than is free: free some space")
            for member in members:
                member.filename = member.filename.replace("\\", "/")  # some tools for Windows write these
                zipped.extract(member, folder)  # at most file_size bytes; the CRC is checked
    except OSError as error:
        raise UserError(f"cannot unpack {archive} ({error.strerror or error}): free some space") from None
    except (EOFError, RuntimeError, ValueError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{archive} is not a whole zip file ({error}): make or fetch it again") from None


def recognize(folder: SourceFolder) -> Format:
    """The format of a folder.

    Raises:
        UserError: no format fits, or several do.
    """
    found = {}
    for name in FORMATS:
        if names := [folder.name_of(path) for path, _ in load_format(name).find(folder, sniff=True)]:
            found[name] = listing(names)
    if not found:
        raise UserError(
            f"{folder.path} holds no annotations of a known format ({', '.join(FORMATS)}): export them again, next "
            "to the photos, or name the format with --format"
        )
    if len(found) > 1:
        fitting = "; ".join(f"{name}: {files}" for name, files in found.items())
        raise UserError(f"{folder.path} fits several formats ({fitting}): choose one with --format")
    ((name, files),) = found.items()
    chosen = load_format(name)
    click.echo(f"recognized as {chosen.TITLE}: {files}", err=True)
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
    if not any(photo.objects for photo in annotations.photos):
        notes = "".join(f"; {note}" for note in annotations.notes)
        raise UserError(f"{folder.path} holds no annotated object{notes}: annotate some and export again")
    return annotations


def negative_photos(path: Path) -> dict[str, SourcePhoto]:
    """The photos of a folder and its subfolders as photos that show no object, by name."""
    photos = SourceFolder(path).photos
    if not photos:
        raise UserError(f"--negatives {path} holds no photos ({', '.join(PHOTO_SUFFIXES)}): check the path")
    named = {f"{NEGATIVES}/{name}": file for name, file in photos.items()}
    return {name: SourcePhoto(file, name, ()) for name, file in named.items()}


def _digest(folder: SourceFolder, photos: Iterable[SourcePhoto]) -> str:
    """Twelve digits that change when an annotation file does, or the size of a photo, or which photos there are."""
    contents = [sha256_of(path) for path in folder.files(".json", ".xml", ".txt", ".yaml", ".yml")]
    sizes = [f"{photo.name} {photo.path.stat().st_size}" for photo in photos if not photo.problem]
    return hashlib.sha256("\n".join(contents + sizes).encode()).hexdigest()[:12]


def write_annotations(
    annotations: Annotations,
    root: Path,
    options: Options,
    negatives: dict[str, SourcePhoto],
    *,
    name: str,
    source: str,
) -> dict[str, Any]:
    """Write annotations and photos without any object as a data set; see ``import_dataset``."""
    photos = _usable_photos(annotations, options)
    classes = _classes(annotations, photos, options.class_name)
    rule = grouping(options.group_by)

    def group_of(name: str) -> str:
        group = rule(name)
        # by --group-by folder, that of --negatives itself would hold all of them together
        return name if group == NEGATIVES and name in negatives else group

    given = {key: photo.split for key, photo in photos.items()}
    plan = plan_splits(given, options.val, options.test, options.seed, group_of)
    if negatives:  # spread over the splits that there are, if there are enough of them
        photos |= negatives
        enough = len({group_of(name) for name in negatives}) >= len(plan)
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
    for fate, count in annotations.crowds.items():
        annotations.notes.append(f"{fate}: {count} objects marked iscrowd; --crowd keep|object decides")
    for note in annotations.notes:
        click.echo(note, err=True)
    return card


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
        did = "kept as examples of nothing to find"
        if options.empty == "drop":
            did = "left out"
            photos = {name: photo for name, photo in photos.items() if photo.objects}
        annotations.notes.append(
            f"{did}: {len(empty)} photos annotated with no object ({listing(empty)}); --empty keep|drop decides"
        )
    if not {"train", None} & {photo.split for photo in photos.values()}:  # folders named so by chance
        photos = {name: replace(photo, split=None) for name, photo in photos.items()}
    return photos


def _classes(annotations: Annotations, photos: dict[str, SourcePhoto], only: str | None) -> list[str]:
    """The classes that occur in training photos, in the order of the tool."""
    if only:
        return [only]
    training = [photo for photo in photos.values() if photo.split in ("train", None)]
    used = {each.class_name for photo in training for each in photo.objects} - {""}
    order = annotations.classes or sorted(used)
    if unused := [name for name in order if name not in used]:
        annotations.notes.append(f"left out: classes without an annotation in train: {', '.join(unused)}")
    return [name for name in order if name in used]
