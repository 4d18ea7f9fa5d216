"""The balloon set of Matterport's Mask R-CNN: 61 + 13 photos, 255 + 50 polygons.

https://github.com/matterport/Mask_RCNN/releases/tag/v2.1 . The 13 photos of its official ``val`` are our
``test``: never trained on, never used to choose a checkpoint. 20 % of its official ``train`` are our ``val``.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.data.dataset import already_made
from finetune.data.formats import load_format
from finetune.data.formats.source import Options, SourceFolder
from finetune.data.importing import read_annotations, write_annotations
from finetune.data.split import split_names
from finetune.data.unzip import unpack
from finetune.download import cache_folder, download
from finetune.errors import UserError
from finetune.files import sha256_of

URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.1/balloon_dataset.zip"
# The checksum of the zip itself is not published; these are of its two annotation files.
SHA256 = {
    "train": "51bb6efa3e72448862dfd17a6bb8b26da786425703472a586c655babf07b65ee",
    "val": "46e0297a7a0f370bcc0250d683aafe869d1709a6bb0803d658fb1333ca76a09d",
}
MAX_BYTES = 400_000_000  # the zip has about 40 MB


def make_balloon(
    root: Path, *, origin: Path | None = None, url: str = URL, seed: int = 1997, force: bool = False
) -> dict[str, Any]:
    """Make the balloon data set.

    Args:
        root: the folder to make.
        origin: a folder (with ``train`` and ``val``) or the zip; None downloads the zip.
        seed: draws the validation photos; 1997 is the original project's.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: it cannot be downloaded, or is not the balloon set.
    """
    source = f"Matterport balloon v2.1, val = 20 % of official train (seed {seed}), test = official val"
    if card := already_made(root, source, force):
        return card
    if origin is None:
        try:
            origin = download(url, cache_folder() / "balloon_dataset.zip", max_bytes=MAX_BYTES)
        except UserError as error:
            raise UserError(f"{error}, or pass it with --from") from None
    if origin.is_dir():
        return _convert(_balloon_folder(origin), root, source, seed)
    if not origin.is_file():
        raise UserError(f"{origin} is not there: give --from the balloon folder or its zip")
    with tempfile.TemporaryDirectory(prefix="balloon-") as scratch:
        unpack(origin, Path(scratch), max_bytes=MAX_BYTES)
        return _convert(_balloon_folder(Path(scratch)), root, source, seed)


def _balloon_folder(folder: Path) -> Path:
    for candidate in (folder, folder / "balloon"):
        if all((candidate / split / "via_region_data.json").is_file() for split in SHA256):
            return candidate
    raise UserError(f"{folder} is not the balloon set: it needs train/ and val/ with via_region_data.json")


def _convert(folder: Path, root: Path, source: str, seed: int) -> dict[str, Any]:
    for split, expected in SHA256.items():
        path = folder / split / "via_region_data.json"
        if sha256_of(path) != expected:
            raise UserError(
                f"{path} is not the one of the balloon set v2.1 (its checksum differs): fetch {URL} again, "
                "or import annotations of your own with `maskrcnn data import`"
            )
    options = Options(class_name="balloon")
    annotations = read_annotations(load_format("via"), SourceFolder(folder), options)
    train = [photo.name for photo in annotations.photos if photo.split == "train"]
    drawn = set(split_names(train, 0.2, seed)[1])
    photos = [
        replace(photo, split="test" if photo.split == "val" else "val" if photo.name in drawn else "train")
        for photo in annotations.photos
    ]
    return write_annotations(
        replace(annotations, photos=photos), root, options, name="balloon", source=source
    )
