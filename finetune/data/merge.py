"""Merge a corrected or enlarged data set into an older one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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


@dataclass
class _Entry:
    """A photo of one of the two data sets; classes are those of the merged one."""

    photo: Photo
    split: str
    digest: str


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
    entries = list(_entries(old, classes))
    before = _objects(entries)
    by_digest = {each.digest: each for each in entries}
    by_name = {each.photo.name: each for each in entries}
    changes: Counter[str] = Counter()
    for each in _entries(new, classes):
        same, namesake = by_digest.get(each.digest), by_name.get(each.photo.name)
        if same is None and namesake and _look_alike(namesake.photo, each.photo):
            same = namesake
        if same is None:
            entries.append(each)
            changes["added"] += 1
            continue
        changes["unchanged" if same.photo.instances == each.photo.instances else "corrected"] += 1
        # of one file, the older name is kept
        name = same.photo.name if same.digest == each.digest else each.photo.name
        same.photo = replace(each.photo, name=name)
    changes["only in the older set"] = len(entries) - changes.total()
    splits = {split: [each.photo for each in entries if each.split == split] for split in SPLITS}
    splits = {split: photos for split, photos in splits.items() if photos}
    card = write_dataset(root, name=root.name, classes=classes, source=source, splits=splits)
    click.echo("photos: " + ", ".join(f"{count} {what}" for what, count in changes.items()), err=True)
    for split, count in _objects(entries).items():
        click.echo(f"{split}: {before[split]} objects before, {count} now", err=True)
    return card


def _digest(root: Path) -> str:
    return " ".join(sha256_of(root / f"{split}.json")[:12] for split in splits_of(root))


def _entries(root: Path, classes: Sequence[str]) -> Iterator[_Entry]:
    number = [classes.index(name) for name in class_names(root)]
    for split in splits_of(root):
        for photo in read_photos(root, split):
            assert isinstance(photo.image, Path)
            instances = [replace(each, class_id=number[each.class_id]) for each in photo.instances]
            yield _Entry(replace(photo, instances=instances), split, sha256_of(photo.image))


def _objects(entries: Sequence[_Entry]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for each in entries:
        counts[each.split] += len(each.photo.instances)
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
