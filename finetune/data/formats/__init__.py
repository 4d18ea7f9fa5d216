"""Annotation formats of other tools, read and written.

To add one, write a module with what ``Format`` describes, and put its name into ``FORMATS``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from finetune.data.dataset import Photo
    from finetune.data.formats.source import Annotations, Options, SourceFolder

# The command line needs only the names, so a format's module is imported when it is used.
FORMATS = ("via", "coco", "labelme", "yolo", "label-studio", "cvat")


class Format(Protocol):
    """What a module of this package offers."""

    TITLE: str  # what people call the format
    PHOTOS: str  # where an export puts the photos of a split: "{split}" or "images/{split}"
    ADVICE: str  # what to do about a folder without such files

    def find(self, folder: SourceFolder, *, sniff: bool = False) -> Iterator[tuple[Path, Any]]:
        """The annotation files of this format and their content.

        Args:
            sniff: recognize the format: skip damaged files, and read few of many that look alike.
        """

    def read(self, folder: SourceFolder, found: Iterator[tuple[Path, Any]], options: Options) -> Annotations:
        """Read the annotation files that ``find`` found, at least one.

        Raises:
            UserError: they are damaged, or lack something.
        """

    def write(self, root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
        """Write the annotations of a data set whose photos have been copied already."""


def load_format(name: str) -> Format:
    """The module of a format, by its name in ``FORMATS``."""
    return cast(Format, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
