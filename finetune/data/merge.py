"""Merge a corrected or enlarged data set into an older one."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from finetune.data.dataset import (
    SPLITS,
    Instance,
    Photo,
    already_made,
    class_names,
    read_photos,
    write_dataset,
)
from finetune.data.duplicates import difference_hash, near_pairs
from finetune.data.photos import open_photo
from finetune.errors import UserError
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
    digests = " and ".join(_digest(each) for each in (old, new))
    source = f"merged from {digests}"
    if card := already_made(root, source, force):
        return card
    classes = class_names(old)
    classes += [name for name in class_names(new) if name not in classes]
    entries, newer = _entries(old, classes), _entries(new, classes)
    by_digest = {each.digest: each for each in entries}
    by_name = {each.photo.name: each for each in entries}
    changes: Counter[str] = Counter()
    for each in newer:
        same = by_digest.get(each.digest)
        candidate = by_name.get(each.photo.name)
        if same is None and candidate and _look_alike(candidate.photo, each.photo):
            same = candidate
        if same is None:
            entries.append(each)
            changes["added"] += 1
            continue
        changes["unchanged" if same.photo.instances == each.photo.instances else "corrected"] += 1
        same.photo = (
            replace(same.photo, instances=each.photo.instances) if same.digest == each.digest else each.photo
        )
    changes["only in the older set"] = len(entries) - changes.total()
    splits = {split: [each.photo for each in entries if each.split == split] for split in SPLITS}
    splits = {split: photos for split, photos in splits.items() if photos}
    before = {split: _count(read_photos(old, split)) for split in SPLITS if (old / f"{split}.json").is_file()}
    card = write_dataset(root, name=root.name, classes=classes, source=source, splits=splits)
    click.echo("photos: " + ", ".join(f"{count} {what}" for what, count in changes.items()), err=True)
    for split, photos in splits.items():
        click.echo(f"{split}: {before.get(split, 0)} objects before, {_count(photos)} now", err=True)
    return card


def _digest(root: Path) -> str:
    files = [root / f"{split}.json" for split in SPLITS if (root / f"{split}.json").is_file()]
    if not files:
        raise UserError(f"{root} holds no data set: make one with `maskrcnn data import`")
    return " ".join(sha256_of(path)[:12] for path in files)


def _entries(root: Path, classes: Sequence[str]) -> list[_Entry]:
    number = [classes.index(name) for name in class_names(root)]
    entries = []
    for split in SPLITS:
        if (root / f"{split}.json").is_file():
            for photo in read_photos(root, split):
                assert isinstance(photo.image, Path)
                instances = [_renumbered(each, number) for each in photo.instances]
                entries.append(_Entry(replace(photo, instances=instances), split, sha256_of(photo.image)))
    return entries


def _renumbered(instance: Instance, number: Sequence[int]) -> Instance:
    return replace(instance, class_id=number[instance.class_id])


def _look_alike(one: Photo, other: Photo) -> bool:
    if (one.width, one.height) != (other.width, other.height):
        return False
    hashes: list[np.ndarray] = []
    for photo in (one, other):
        assert isinstance(photo.image, Path)
        with open_photo(photo.image) as image:
            hashes.append(difference_hash(image))
    return bool(list(near_pairs(hashes)))


def _count(photos: Iterable[Photo]) -> int:
    return sum(len(photo.instances) for photo in photos)
