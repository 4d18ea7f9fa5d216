"""Write a data set in the format of another tool."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from finetune.data.dataset import Photo, class_names, read_photos, splits_of
from finetune.data.formats import load_format
from finetune.data.photos import copy_upright
from finetune.errors import UserError
from finetune.files import new_folder


def export_dataset(root: Path, format_name: str, output: Path, *, force: bool = False) -> Path:
    """Write the photos and annotations of a data set; crowds are left out of all formats but COCO.

    Args:
        format_name: one of ``finetune.data.formats.FORMATS``.
        output: the folder to make.
        force: replace what is there.

    Returns:
        ``output``.

    Raises:
        UserError: ``root`` is not a data set, or ``output`` is taken or cannot be written.
    """
    classes = class_names(root)
    if output.resolve() == root.resolve():
        raise UserError(f"{output} is the data set itself: choose another --output")
    splits = {split: read_photos(root, split) for split in splits_of(root)}
    return write_export(classes, splits, format_name, output, force=force)


def write_export(
    classes: Sequence[str],
    splits: dict[str, list[Photo]],
    format_name: str,
    output: Path,
    *,
    force: bool = False,
) -> Path:
    """Write photos, upright, and their annotations in the format of another tool; see ``export_dataset``."""
    chosen = load_format(format_name)
    if not force and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is taken: choose another folder, or replace it with --force")
    if format_name in ("labelme", "yolo"):
        splits = _own_stems(splits)
    crowds = 0
    if format_name != "coco":
        crowds = sum(
            each.iscrowd for photos in splits.values() for photo in photos for each in photo.instances
        )
        splits = {split: [_without_crowds(photo) for photo in photos] for split, photos in splits.items()}
    try:
        with new_folder(output) as folder:
            for split, photos in splits.items():
                target = folder / chosen.PHOTOS.format(split=split)
                target.mkdir(parents=True)
                for photo in photos:
                    assert isinstance(photo.image, Path)
                    copy_upright(photo.image, target / photo.name)
            chosen.write(folder, classes, splits)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror or error}): free some space") from None
    if crowds:
        click.echo(f"left out: {crowds} crowds, which {chosen.TITLE} cannot express", err=True)
    return output


def _without_crowds(photo: Photo) -> Photo:
    return replace(photo, instances=[each for each in photo.instances if not each.iscrowd])


def _own_stems(splits: Mapping[str, Sequence[Photo]]) -> dict[str, list[Photo]]:
    """Rename photos that differ in their suffix alone: labelme and YOLO name a label file by the rest."""
    counts = Counter(Path(photo.name).stem.lower() for photos in splits.values() for photo in photos)

    def name(path: Path) -> str:
        shared = counts[path.stem.lower()] > 1
        return f"{path.stem}_{path.suffix[1:]}{path.suffix}" if shared else path.name

    return {
        split: [replace(photo, name=name(Path(photo.name))) for photo in photos]
        for split, photos in splits.items()
    }
