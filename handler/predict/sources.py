"""INPUT → the photos it means, each once, in order."""

from __future__ import annotations

import os

import fsspec

from handler.predict import BatchError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""What is taken from a folder; a glob or a list may name any file."""


def list_photos(source: str) -> list[str]:
    """Absolute paths or URIs of the photos that ``source`` means, sorted (a list keeps its order), no doubles.

    Args:
        source: a folder (with all below it), a glob, a ``.txt`` file with a path or URI a line (relative ones
            start at that file's folder), or one photo; as a path or as an fsspec URI such as ``s3://…``.

    Raises:
        BatchError: it cannot be read, or there is no photo in it.
    """
    try:
        fs, path = fsspec.core.url_to_fs(source)
        if any(character in path for character in "*?[") and not fs.exists(path):
            found = sorted(
                name for name, entry in fs.glob(path, detail=True).items() if entry["type"] == "file"
            )
        elif fs.isdir(path):
            found = sorted(name for name in fs.find(path) if name.lower().endswith(SUFFIXES))
        elif path.lower().endswith(".txt"):
            text = fs.cat_file(path).decode()
            found = [_beside(path, line.strip()) for line in text.splitlines() if line.strip()]
        else:
            found = [path] if fs.isfile(path) else []
    except (OSError, ValueError, ImportError) as error:
        raise BatchError(f"INPUT {source} cannot be read: {_sentence(error)}") from error
    photos = list(dict.fromkeys(name if "://" in name else _named(fs, name) for name in found))
    if not photos:
        raise BatchError(
            f"INPUT {source} has no photos: name a folder, a glob in quotes, or a .txt file of paths"
        )
    return photos


def _beside(listing: str, name: str) -> str:
    return name if "://" in name or name.startswith("/") else f"{os.path.dirname(listing)}/{name}"


def _named(fs: fsspec.AbstractFileSystem, name: str) -> str:
    return name if "file" in fs.protocol else str(fs.unstrip_protocol(name))


def _sentence(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
