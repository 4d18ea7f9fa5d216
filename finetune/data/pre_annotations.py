"""Write predictions as annotations that people correct in the tool of their choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from finetune.data.dataset import Instance, Photo, free_name
from finetune.data.exporting import write_export
from finetune.files import read_json, write_json

Predicted = tuple[str, Path, int, int, Sequence[tuple[int, Any]]]
"""Name, file, width and height of a photo, and for each instance its class id (from 0) and its segmentation."""


def write_pre_annotations(
    format_name: str, output: Path, classes: Sequence[str], photos: Iterable[Predicted]
) -> None:
    """Make the folder ``output``, or replace it; all photos are in its split train.

    In Label Studio's file they are predictions, which count once somebody has accepted them there.

    Args:
        format_name: one of ``finetune.data.formats.FORMATS``.

    Raises:
        UserError: a photo that cannot be used, or no space.
    """
    taken: set[str] = set()
    train = [
        Photo(free_name(name, taken), path, width, height, [Instance(*each) for each in found])
        for name, path, width, height, found in photos
    ]
    write_export(classes, {"train": train}, format_name, output, force=True)
    if format_name == "label-studio":
        path = output / "train" / "label_studio.json"
        tasks = read_json(path)
        for task in tasks:
            task["predictions"] = [{"result": each["result"]} for each in task["annotations"]]
            task["annotations"] = []
        write_json(path, tasks)
