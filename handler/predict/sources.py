"""SOURCE arguments → photos, each once, in order."""

from __future__ import annotations

import os

import fsspec

from handler.errors import PredictError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Which files of a folder are photos; a glob or a list may name any file."""


def list_photos(*sources: str) -> list[str]:
    """Paths or URIs of the photos in ``sources``, absolute and without duplicates.

    Args:
        sources: each a folder (with its subfolders), a glob, a ``.txt`` file with a path or URI per line
            (relative to that file), or one photo; as a path or as an fsspec URI such as ``s3://…``. Folders and globs
            are sorted.

    Raises:
        PredictError: a source cannot be read, or has no photos.
    """
    return list(dict.fromkeys(photo for source in sources for photo in _expand(source)))


def _expand(source: str) -> list[str]:
    try:
        fs, path = fsspec.core.url_to_fs(source)
        if any(character in path for character in "*?[") and not fs.exists(path):
            found = sorted(
                name for name, entry in fs.glob(path, detail=True).items() if entry["type"] == "file"
            )
        elif fs.isdir(path):
            found = sorted(name for name in fs.find(path) if name.lower().endswith(SUFFIXES))
        elif path.lower().endswith(".txt"):
            lines = fs.cat_file(path).decode().splitlines()
            found = [_beside(path, line.strip()) for line in lines if line.strip()]
        else:
            found = [path] if fs.isfile(path) else []
    except (OSError, ValueError, ImportError) as error:  # ImportError: a kind of URI that needs a package
        reason = getattr(error, "strerror", None) or error
        raise PredictError(f"SOURCE {source} cannot be read: {reason}") from error
    if not found:
        raise PredictError(
            f"SOURCE {source} has no photos: name a photo, a folder, a glob in quotes, or a .txt list"
        )
    return [name if "://" in name or "file" in fs.protocol else fs.unstrip_protocol(name) for name in found]


def _beside(listing: str, name: str) -> str:
    return name if "://" in name or os.path.isabs(name) else f"{os.path.dirname(listing)}/{name}"
