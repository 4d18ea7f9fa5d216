"""Model archives (``.mar``): read what they say about themselves, and bring them into the model store."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_config.errors import ServeError
from serve_config.server.state import MODEL

# for versions and file names: they go into URLs and paths
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Archive:
    """``classes`` is None for an archive that does not tell its class names."""

    path: Path
    version: str
    classes: list[str] | None


def read_archive(path: Path) -> Archive:
    """What an archive says about itself. Every byte is checked against the archive's own checksums.

    Raises ServeError if it is missing, damaged, or no archive of this service.
    """
    if not path.is_file():
        raise ServeError(f"there is no archive {path}: `python -m finetune export RUN` makes one")
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
            if damaged:
                raise ServeError(
                    f"{path} is damaged ({damaged} does not match its checksum): export or copy it again"
                )
            model = json.loads(file.read("MAR-INF/MANIFEST.json"))["model"]
            name, version = str(model["modelName"]), str(model["modelVersion"])
            card: dict[str, Any] = (
                json.loads(file.read("archive.json")) if "archive.json" in file.namelist() else {}
            )
            classes = card.get("classes")
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ServeError(
            f"{path} is a zip file but no TorchServe archive (MAR-INF/MANIFEST.json is missing or odd): "
            "make one with `python -m finetune export RUN`"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ServeError(f"{path} is damaged or not an archive ({error}): export or copy it again") from error
    except OSError as error:
        raise ServeError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    if name != MODEL:
        raise ServeError(f"{path} holds the model {name!r}, and this service serves {MODEL!r} alone")
    if not SAFE_NAME.fullmatch(version):
        raise ServeError(
            f"{path} has the version {version!r}: export it with letters, digits, '.', '_' and '-' only"
        )
    return Archive(path, version, classes)


def find_archive(name: str, store: Path) -> Path:
    """The file meant by ``name``: a path, a file name in the store, or a version. Raises ServeError if there
    is none.
    """
    if "://" in name:
        raise ServeError(f"{name} is a URL: download the archive first, look at it, and register the file")
    choices = [Path(name)]
    if SAFE_NAME.fullmatch(name):
        choices += [store / name, store / f"{MODEL}_{name}.mar"]
    for path in choices:
        if path.is_file():
            return path
    known = (
        ", ".join(sorted(path.stem.removeprefix(f"{MODEL}_") for path in store.glob("*.mar"))) or "nothing"
    )
    raise ServeError(
        f"there is no archive or version {name!r} (the model store {store} holds {known}): "
        "`python -m finetune export RUN` makes one"
    )


def bring_into_store(archive: Archive, store: Path) -> tuple[str, bool]:
    """The archive's file name in ``store``, and whether it had to be copied there.

    TorchServe loads from its store alone. A file from elsewhere is copied under a temporary name and renamed;
    another file that already has its name is left alone. Raises ServeError.
    """
    if (
        archive.path.parent.resolve() == store
        and not archive.path.is_symlink()
        and SAFE_NAME.fullmatch(archive.path.name)
    ):
        return archive.path.name, False
    target = store / f"{MODEL}_{archive.version}.mar"
    if target.exists():
        if filecmp.cmp(archive.path, target, shallow=False):
            return target.name, False
        raise ServeError(
            f"the model store has another {target.name} already: export with another --version, or "
            f"delete {target}"
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
