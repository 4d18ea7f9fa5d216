"""The balloon set of Matterport's Mask R-CNN: 61 + 13 photos, 255 + 50 polygons.

https://github.com/matterport/Mask_RCNN/releases/tag/v2.1 . The 13 photos of its official ``val`` are our
``test``: never trained on, never used to choose a checkpoint. 20 % of its official ``train`` are our ``val``.
"""

import stat
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from finetune.data.dataset import already_made, write_dataset
from finetune.data.importers.via import read_via, to_photos
from finetune.data.split import split_names
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
MAX_FILES = 1000


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
        UserError: it cannot be fetched, or is not the balloon set.
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
        unpack(origin, Path(scratch))
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
                "or convert annotations of your own with `data via`"
            )
    train, test = (read_via(folder / split / "via_region_data.json") for split in ("train", "val"))
    rest, drawn = split_names(list(train), 0.2, seed)

    def class_of(region: Mapping[str, Any]) -> str:
        return "balloon"

    splits = {
        "train": to_photos(folder / "train", train, rest, ["balloon"], class_of),
        "val": to_photos(folder / "train", train, drawn, ["balloon"], class_of),
        "test": to_photos(folder / "val", test, sorted(test), ["balloon"], class_of),
    }
    return write_dataset(root, name="balloon", classes=["balloon"], source=source, splits=splits)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip from a stranger: no path out of ``folder``, no links, at most MAX_BYTES and MAX_FILES.

    Raises:
        UserError: it is damaged, or not to be trusted.
    """
    again = "remove it and fetch the balloon set again"
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [member for member in zipped.infolist() if not member.is_dir()]
            if len(members) > MAX_FILES or sum(member.file_size for member in members) > MAX_BYTES:
                raise UserError(f"{archive} unpacks to more than the balloon set: {again}")
            for member in members:
                path = PurePosixPath(member.filename.replace("\\", "/"))
                leads_out = path.is_absolute() or ".." in path.parts or ":" in path.parts[0]
                if leads_out or stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                    raise UserError(f"{archive} holds {member.filename!r}, an unsafe path or a link: {again}")
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(member) as packed:
                    target.write_bytes(packed.read())  # at most file_size bytes; the CRC is checked
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        raise UserError(f"{archive} is not a whole zip file ({error}): {again}") from None
    except OSError as error:
        raise UserError(f"cannot unpack {archive} ({error.strerror or error}): free some space") from None
