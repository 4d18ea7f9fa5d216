"""The balloon set of Matterport's Mask R-CNN: 61 + 13 photos, 255 + 50 polygons.

https://github.com/matterport/Mask_RCNN/releases/tag/v2.1 . The 13 photos of its official ``val`` are our
``test``: never trained on, never used to choose a checkpoint. 20 % of its official ``train`` are our ``val``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.data.dataset import already_made
from finetune.data.formats import load_format
from finetune.data.formats.source import Options
from finetune.data.importing import opened, read_annotations, write_annotations
from finetune.data.split import split_names
from finetune.download import cache_folder, download
from finetune.errors import UserError
from finetune.files import sha256_of

URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.1/balloon_dataset.zip"
# The checksum of the zip itself is not published; these are of its two annotation files.
SHA256 = {
    "51bb6efa3e72448862dfd17a6bb8b26da786425703472a586c655babf07b65ee",  # train
    "46e0297a7a0f370bcc0250d683aafe869d1709a6bb0803d658fb1333ca76a09d",  # val
}
SEED = 1997  # draws our val
MAX_BYTES = 400_000_000  # the zip has about 40 MB


def make_balloon(root: Path, *, origin: Path | None = None, force: bool = False) -> dict[str, Any]:
    """Make the balloon data set.

    Args:
        root: the folder to make.
        origin: a folder (with ``train`` and ``val``) or the zip; None downloads the zip.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: it cannot be downloaded, or is not the balloon set.
    """
    source = f"Matterport balloon v2.1, val = 20 % of official train (seed {SEED}), test = official val"
    if card := already_made(root, source, force):
        return card
    if origin is None:
        try:
            origin = download(URL, cache_folder() / "balloon_dataset.zip", max_bytes=MAX_BYTES)
        except UserError as error:
            raise UserError(f"{error}, or pass it with --from") from None
    options = Options(class_name="balloon")
    with opened(origin) as folder:
        annotations = read_annotations(load_format("via"), folder, options)
        if not SHA256.issubset(map(sha256_of, folder.files(".json"))):
            raise UserError(
                f"{origin} is not the balloon set v2.1 (the checksums of its annotations differ): fetch {URL}, or "
                "import annotations of your own with `maskrcnn data import`"
            )
        train = [photo.name for photo in annotations.photos if photo.split == "train"]
        drawn = set(split_names(train, 0.2, SEED)[1])
        annotations.photos = [
            replace(
                photo, split="test" if photo.split == "val" else "val" if photo.name in drawn else "train"
            )
            for photo in annotations.photos
        ]
        return write_annotations(annotations, root, options, {}, name="balloon", source=source)
