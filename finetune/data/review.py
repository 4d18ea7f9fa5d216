"""Turn the review store of `maskrcnn web --review` into photos that a tool opens with the model's answers drawn in.

``web_client/api/review.py`` describes the store.
"""

from pathlib import Path

import click

from finetune.data.dataset import Instance, Photo
from finetune.data.exporting import write_export
from finetune.data.formats.source import PHOTO_SUFFIXES
from finetune.errors import UserError
from finetune.files import read_json


def export_review(store: Path, format_name: str, root: Path, *, force: bool = False) -> Path:
    """Write the kept photos with the objects that reach the model's threshold.

    Args:
        store: the folder that the web server keeps; it may be in use.
        format_name: one of ``finetune.data.formats.FORMATS``.
        root: the folder to make. force: replace what is there.

    Returns:
        ``root``.

    Raises:
        UserError: the store is empty, or an entry or ``root`` cannot be used.
    """
    classes: list[str] = []
    photos = [_photo(path, classes) for path in sorted(store.glob("[!.]*/answer.json"))]
    if not photos:
        raise UserError(f"{store} holds no photos: collect some with `maskrcnn web --review {store}`")
    flagged = sum("-wrong." in photo.name for photo in photos)
    objects = sum(len(photo.instances) for photo in photos)
    click.echo(f"photos: {len(photos)}, flagged as wrong: {flagged}; objects: {objects}", err=True)
    return write_export(classes, {"train": photos}, format_name, root, force=force)


def _photo(path: Path, classes: list[str]) -> Photo:
    """The photo beside an ``answer.json`` with its objects; new class names are added to ``classes``."""
    entry = path.parent
    content = read_json(path, cure=f"delete {entry}")
    try:
        (photo,) = (file for file in entry.iterdir() if file.suffix in PHOTO_SUFFIXES)
        answer, threshold = content["answer"], content["score_threshold"]
        # the box of an object may be too small for a mask
        found = [each for each in answer["instances"] if each["score"] >= threshold and each["area"]]
        names = [*content["classes"], *(each["class_name"] for each in found)]
        classes += [name for name in dict.fromkeys(names) if name not in classes]
        objects = [Instance(classes.index(each["class_name"]), each["mask"]) for each in found]
        size = answer["image"]["width"], answer["image"]["height"]
    except (LookupError, TypeError, ValueError):
        raise UserError(f"{entry} does not hold a photo and an answer to it: delete it") from None
    return Photo(f"{entry.name}{photo.suffix}", photo, *size, objects)
