"""SOURCE arguments → photos and films, each once, in order."""

from __future__ import annotations

import os
import zipfile

import fsspec

from handler.errors import PredictError

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Which files of a folder or a zip are photos; a glob or a list may name any file."""
FILMS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


def list_sources(*sources: str) -> list[str]:
    """Paths or URIs of the photos and films in ``sources``, absolute and without duplicates.

    Args:
        sources: each a folder (with its subfolders), a zip, a glob, a ``.txt`` file with a path or URI per line
            (relative to that file), or one photo or film; as a path or as an fsspec URI such as ``s3://…``. Folders,
            zips and globs are sorted.

    Raises:
        PredictError: a source cannot be read, or has no photos.
    """
    return list(dict.fromkeys(photo for source in sources for photo in _expand(source)))


def is_film(name: str) -> bool:
    """Whether the file is a film, by its name."""
    return file_name(name).lower().endswith(FILMS)


def file_name(photo: str) -> str:
    """The last part of a path or URI; of a file in a zip (``zip://a.jpg::photos.zip``), its name there."""
    return photo.partition("::")[0].rpartition("/")[2]


def _expand(source: str) -> list[str]:
    try:
        fs, path = fsspec.core.url_to_fs(source)
        if any(character in path for character in "*?[") and not fs.exists(path):
            found = sorted(
                name for name, entry in fs.glob(path, detail=True).items() if entry["type"] == "file"
            )
        elif fs.isdir(path):
            found = _usable(fs.find(path))
        elif path.lower().endswith(".zip"):
            place = path if "file" in fs.protocol else fs.unstrip_protocol(path)
            names = _usable(fsspec.filesystem("zip", fo=place).find(""))
            # what macOS adds are no photos
            found = [f"zip://{name}::{place}" for name in names if not name.startswith("__MACOSX/")]
        elif path.lower().endswith(".txt"):
            lines = fs.cat_file(path).decode().splitlines()
            found = [_beside(path, line.strip()) for line in lines if line.strip()]
        else:
            found = [path] if fs.isfile(path) else []
    except (OSError, ValueError, ImportError, zipfile.BadZipFile) as error:
        # ImportError: a kind of URI that needs a package
        reason = getattr(error, "strerror", None) or error
        raise PredictError(f"SOURCE {source} cannot be read: {reason}") from error
    if not found:
        raise PredictError(
            f"SOURCE {source} has no photos: name a photo, a film, a folder, a zip, a glob in quotes, or a .txt list"
        )
    return [name if "://" in name or "file" in fs.protocol else fs.unstrip_protocol(name) for name in found]


def _usable(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.lower().endswith(PHOTOS + FILMS))


def _beside(listing: str, name: str) -> str:
    return name if "://" in name or os.path.isabs(name) else f"{os.path.dirname(listing)}/{name}"
