"""Model archives (``.mar``): read and verify them, and bring them into the model store."""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serve_config.errors import ServeError
from serve_config.server.state import MODEL

# versions and file names become parts of URLs and paths
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Archive:
    """``classes`` is None for an archive that does not list its classes; ``uncertainty`` is that on val, if known."""

    path: Path
    version: str
    classes: list[str] | None
    uncertainty: dict[str, float] | None = None


def read_archive(path: Path) -> Archive:
    """What an archive says about itself; its weights are not read (:func:`verify` does that).

    Raises ServeError if it is missing, damaged, or not an archive of this service.
    """
    with _opened(path) as file:
        try:
            model = json.loads(file.read("MAR-INF/MANIFEST.json"))["model"]
            name, version = str(model["modelName"]), str(model["modelVersion"])
            card = json.loads(file.read("archive.json")) if "archive.json" in file.namelist() else {}
            classes = card.get("classes")
            uncertainty = (card.get("operating_point") or {}).get("uncertainty")
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ServeError(
                f"{path} is a zip file but not a TorchServe archive (MAR-INF/MANIFEST.json is missing or malformed): "
                "make one with `maskrcnn export RUN`"
            ) from error
    if name != MODEL:
        raise ServeError(f"{path} holds the model {name!r}, and this service serves only {MODEL!r}")
    if not SAFE_NAME.fullmatch(version):
        raise ServeError(
            f"{path} has the version {version!r}: export it with letters, digits, '.', '_' and '-' only"
        )
    return Archive(path, version, classes, uncertainty)


def verify(path: Path) -> None:
    """Check every byte against the archive's own checksums. Raises ServeError."""
    with _opened(path) as file:
        if damaged := file.testzip():
            raise ServeError(
                f"{path} is damaged ({damaged} does not match its checksum): export or copy it again"
            )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        raise ServeError(f"there is no archive {path}: make one with `maskrcnn export RUN`")
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ServeError(f"{path} is damaged or not an archive ({error}): export or copy it again") from error
    except OSError as error:
        raise ServeError(f"{path} cannot be read ({error.strerror}): check its permissions") from error


def find_archive(name: str, store: Path) -> Path:
    """The file that ``name`` means: a path, a file name in the store, or a version. Raises ServeError."""
    if "://" in name:
        raise ServeError(f"{name} is a URL: download the archive, inspect it, and register the file")
    choices = [Path(name)]
    if SAFE_NAME.fullmatch(name):
        choices += [store / name, store / f"{MODEL}_{name}.mar"]
    for path in choices:
        if path.is_file():
            return path
    known = sorted(path.stem.removeprefix(f"{MODEL}_") for path in store.glob("*.mar"))
    raise ServeError(
        f"there is no archive or version {name!r} (the model store {store} holds {', '.join(known) or 'nothing'}): "
        "make one with `maskrcnn export RUN`"
    )


def listed_archives(path: Path) -> list[str]:
    """The file names in a list of archives, whose lines are ``SHA256  https://…/NAME.mar``. Raises ServeError."""
    try:
        lines = [line.partition("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"the list {path} cannot be read ({error})") from error
    return [words[-1].rpartition("/")[2] for words in lines if words]


def bring_into_store(archive: Archive, store: Path) -> tuple[str, bool]:
    """The archive's file name in ``store``, and whether it had to be copied there.

    TorchServe loads only from its store. A file from elsewhere is copied under a temporary name and renamed;
    a different file that already has its name is left alone. Raises ServeError.
    """
    inside = archive.path.parent.resolve() == store and not archive.path.is_symlink()
    if inside and SAFE_NAME.fullmatch(archive.path.name):
        return archive.path.name, False
    target = store / f"{MODEL}_{archive.version}.mar"
    if target.exists():
        if filecmp.cmp(archive.path, target, shallow=False):
            return target.name, False
        raise ServeError(
            f"the model store has another {target.name}: export with another --version, or delete {target}"
        )
    temporary = store / f".{target.name}.{os.getpid()}"
    try:
        shutil.copyfile(archive.path, temporary)
        temporary.replace(target)
    except OSError as error:
        raise ServeError(f"{archive.path} cannot be copied into {store} ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target.name, True
