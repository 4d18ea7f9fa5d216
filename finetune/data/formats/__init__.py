"""Annotation formats of other tools, read and written.

To add one, write a module with ``TITLE``, ``PHOTOS``, ``recognize``, ``read`` and ``write`` (``Format`` describes them)
and name it in ``FORMATS`` and in ``finetune.data.cli.FORMAT_NAMES``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from finetune.data.dataset import Photo
from finetune.data.formats import coco, cvat, label_studio, labelme, via, yolo
from finetune.data.formats.source import Annotations, Options, SourceFolder
from finetune.errors import UserError


class Format(Protocol):
    """What a module of this package offers."""

    TITLE: str  # what people call the format
    PHOTOS: str  # where an export puts the photos of a split: "{split}" or "images/{split}"

    def recognize(self, folder: SourceFolder) -> str | None:
        """What in the folder tells of this format, such as "3 files with shapes (a.json, …)"; None if nothing."""

    def read(self, folder: SourceFolder, options: Options) -> Annotations:
        """Read all annotations of the folder.

        Raises:
            UserError: no annotations of this format, or damaged ones.
        """

    def write(self, root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
        """Write the annotations of a data set whose photos have been copied already."""


FORMATS = {
    name: cast(Format, module)
    for name, module in {
        "via": via,
        "coco": coco,
        "labelme": labelme,
        "yolo": yolo,
        "label-studio": label_studio,
        "cvat": cvat,
    }.items()
}


def choose_format(folder: SourceFolder, name: str | None) -> tuple[Format, str]:
    """The format of a folder, and what it was recognized by ("" where it was named).

    Args:
        name: a key of ``FORMATS``; None to recognize it.

    Raises:
        UserError: no format fits, or several do.
    """
    if name:
        return FORMATS[name], ""
    found = {key: reason for key, each in FORMATS.items() if (reason := each.recognize(folder))}
    if not found:
        raise UserError(
            f"{folder.path} holds no annotations of a known format ({', '.join(FORMATS)}): export them again, next "
            "to the photos, or name the format with --format"
        )
    if len(found) > 1:
        listed = "; ".join(f"{key}: {reason}" for key, reason in found.items())
        raise UserError(f"{folder.path} fits several formats ({listed}): choose one with --format")
    (key,) = found
    return FORMATS[key], found[key]
