"""Merge a corrected or enlarged data set into an older one."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from finetune.data.dataset import (
    SPLITS,
    Photo,
    already_made,
    class_names,
    read_photos,
    splits_of,
    write_dataset,
)
from finetune.data.photos import difference_hash, near_pairs, open_photo
from finetune.files import sha256_of


def merge_datasets(old: Path, new: Path, root: Path, *, force: bool = False) -> dict[str, Any]:
    """Merge two data sets; the newer annotations of a photo win.

    A photo is the same if its file is, or if it has the same name and looks alike. It stays in the split of ``old``, so
    a test photo is never trained on; a photo that only ``new`` has keeps the split of ``new``. Classes keep the order
    of ``old``, further ones follow.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: one of the two is not a data set, or ``root`` is taken.
    """
    classes = list(dict.fromkeys(class_names(old) + class_names(new)))
    source = f"merged from {_digest(old)} and {_digest(new)}"
    if card := already_made(root, source, force):
        return card
    merged = dict(_entries(old, classes))
    before = _objects(merged.values())
    by_name = {photo.name: digest for digest, (_, photo) in merged.items()}
    changes: Counter[str] = Counter()
    for digest, (split, photo) in _entries(new, classes):
        same, namesake = digest, by_name.get(photo.name)
        if digest not in merged and namesake and _look_alike(merged[namesake][1], photo):
            same = namesake
        if same not in merged:
            merged[digest] = split, photo
            changes["added"] += 1
            continue
        split, older = merged[same]
        changes["unchanged" if older.instances == photo.instances else "corrected"] += 1
        # of one file, the older name is kept
        merged[same] = split, replace(photo, name=older.name) if same == digest else photo
    changes["only in the older set"] = len(merged) - changes.total()
    splits = {split: [photo for place, photo in merged.values() if place == split] for split in SPLITS}
    splits = {split: photos for split, photos in splits.items() if photos}
    card = write_dataset(root, name=root.name, classes=classes, source=source, splits=splits)
    click.echo("photos: " + ", ".join(f"{count} {what}" for what, count in changes.items()), err=True)
    for split, count in _objects(merged.values()).items():
        click.echo(f"{split}: {before[split]} objects before, {count} now", err=True)
    return card


def _digest(root: Path) -> str:
    return " ".join(sha256_of(root / f"{split}.json")[:12] for split in splits_of(root))


def _entries(root: Path, classes: Sequence[str]) -> Iterator[tuple[str, tuple[str, Photo]]]:
    """SHA-256 of each photo's file, its split, and the photo with its objects in these classes."""
    number = [classes.index(name) for name in class_names(root)]
    for split in splits_of(root):
        for photo in read_photos(root, split):
            assert isinstance(photo.image, Path)
            instances = [replace(each, class_id=number[each.class_id]) for each in photo.instances]
            yield sha256_of(photo.image), (split, replace(photo, instances=instances))


def _objects(entries: Iterable[tuple[str, Photo]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for split, photo in entries:
        counts[split] += len(photo.instances)
    return counts


def _look_alike(one: Photo, other: Photo) -> bool:
    if (one.width, one.height) != (other.width, other.height):
        return False
    hashes = []
    for photo in (one, other):
        assert isinstance(photo.image, Path)
        with open_photo(photo.image) as image:
            hashes.append(difference_hash(image))
    return any(near_pairs(hashes))
