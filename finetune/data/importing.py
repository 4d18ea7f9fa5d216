"""Import annotations of any known format into the one layout."""

import contextlib
import hashlib
import posixpath
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from tqdm import tqdm

from finetune.data.conversion import Tally, convert_photo, crowd_notes
from finetune.data.dataset import Photo, already_made, write_dataset
from finetune.data.formats import choose_format, coco
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
from finetune.files import read_json, sha256_of


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
        annotations = chosen.read(folder, options)
        _note_unlisted(folder, annotations)
        return _convert(annotations, chosen.TITLE, root, options, force)


def import_coco(
    files: dict[str, tuple[Path, Path]], root: Path, options: Options, *, force: bool = False
) -> dict[str, Any]:
    """Import COCO files that are not next to their photos.

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
    if not zipfile.is_zipfile(source):
        raise UserError(
            f"{source} is neither a folder nor a zip: give the folder of the photos and annotations"
        )
    with tempfile.TemporaryDirectory(prefix="maskrcnn-import-") as scratch:
        try:
            unpack(source, Path(scratch))
            yield SourceFolder(Path(scratch))
        except UserError as error:  # the temporary folder means nothing to the user
            raise UserError(error.message.replace(scratch, str(source))) from None


def _note_unlisted(folder: SourceFolder, annotations: Annotations) -> None:
    """Say which photos have no annotations; most often a ``test`` folder that nobody annotated."""
    listed = {photo.path for photo in annotations.photos}
    if unlisted := [name for name, path in folder.photos.items() if path not in listed]:
        annotations.notes.append(
            f"left out: {len(unlisted)} photos without annotations ({listing(unlisted)}); --negatives DIR adds photos "
            "that show no object"
        )


def _convert(
    annotations: Annotations, title: str, root: Path, options: Options, force: bool
) -> dict[str, Any]:
    negatives = _negatives(options.negatives) if options.negatives else {}
    source = f"{title} annotations {_digest(annotations, negatives)}: {options}"
    if card := already_made(root, source, force):
        return card
    return write_annotations(annotations, root, options, name=root.name, source=source, negatives=negatives)


def write_annotations(
    annotations: Annotations,
    root: Path,
    options: Options,
    *,
    name: str,
    source: str,
    negatives: Mapping[str, SourcePhoto] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write annotations as a data set; see ``import_dataset`` for the result and the errors.

    Args:
        negatives: photos that show no object, by name; they are spread over the splits.
    """
    photos = _usable_photos(annotations, options)
    classes = _classes(annotations, photos, options.class_name)
    group_of = grouping(options.group_by)
    given = {key: photo.split for key, photo in photos.items()}
    plan = plan_splits(given, options.val, options.test, options.seed, group_of)
    if negatives:
        photos |= negatives
        enough = len(negatives) >= len(plan)
        val = options.val if enough and "val" in plan else 0
        test = options.test if enough and "test" in plan else 0
        for split, names in plan_splits(dict.fromkeys(negatives), val, test, options.seed, group_of).items():
            plan[split] = plan[split] + names
    bases = Counter(posixpath.basename(key) for key in photos)
    short = {key: base if bases[base := posixpath.basename(key)] == 1 else key for key in photos}
    tally = Tally()
    with tqdm(total=len(photos), desc="importing", unit="photo", leave=False, disable=None) as bar:

        def convert(names: Sequence[str]) -> Iterator[Photo]:
            for key in names:
                photo = convert_photo(photos[key], classes, annotations, options, tally)
                yield replace(photo, name=short[key])
                bar.update()

        splits = {split: convert(names) for split, names in plan.items()}
        card = write_dataset(root, name=name, classes=classes, source=source, splits=splits)
    for note in [
        *annotations.notes,
        *crowd_notes(tally, annotations),
        *map("skipped: {}".format, tally.skipped),
    ]:
        click.echo(note, err=True)
    return card


def _digest(annotations: Annotations, negatives: Mapping[str, SourcePhoto]) -> str:
    """Twelve digits that change when an annotation file does, or the size of a photo, or which photos there are."""
    every = hashlib.sha256()
    for path in annotations.files:
        every.update(sha256_of(path).encode())
    for photo in (*annotations.photos, *negatives.values()):
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


def _negatives(path: Path) -> dict[str, SourcePhoto]:
    folder = SourceFolder(path)
    if not folder.photos:
        raise UserError(
            f"{path} holds no photos ({', '.join(PHOTO_SUFFIXES)}): check the path given with --negatives"
        )
    named = {f"negatives/{name}": file for name, file in folder.photos.items()}
    return {name: SourcePhoto(file, name, ()) for name, file in named.items()}
