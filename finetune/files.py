"""Files and folders that survive a crash: atomic writes, JSON, SHA-256 digests, locks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from finetune.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` create a temporary file beside ``path``, then rename it to ``path``.

    Raises:
        UserError: the disk is full or the folder is not writable. An earlier file at ``path`` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # safetensors creates private files; TorchServe may run as another user
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save raises RuntimeError on a full disk
        raise UserError(
            f"{path} could not be written ({reason_of(error)}): free some space and run the command again "
            "(a training with --resume); an earlier file of that name is unchanged"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def reason_of(error: Exception) -> str:
    """Why reading or writing failed, in one line."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return text.splitlines()[0]


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path, *, cure: str = "restore the file, or make it again") -> Any:
    """Parse a JSON file.

    Args:
        cure: what to do about a damaged file; the end of the error message.

    Raises:
        UserError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path} is not there: check the path") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read (it is not valid JSON: {error}): {cure}") from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold an advisory lock on a folder, which is created if missing; the lock ends with the process.

    Args:
        wait: wait for another process to release the lock, instead of refusing.

    Raises:
        UserError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(
                f"another process is writing to {folder}: wait, or choose another folder"
            ) from None
        yield


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that replaces it if the block succeeds, and is removed if not.

    Whether an existing ``target`` may be replaced is for the caller to check beforehand.

    Raises:
        UserError: the folder cannot be created or moved into place.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        new.chmod(0o755)  # mkdtemp creates a private folder
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): choose another folder") from None
    try:
        yield new
        replace_folder(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Rename ``new`` to ``target``; an old ``target`` is removed only once the new one is in place.

    Both must be on one file system.

    Raises:
        UserError: ``target`` cannot be replaced. What was there before is unchanged.
    """
    old = new.with_name(f"{new.name}.old")
    try:
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    except OSError as error:
        raise UserError(f"{target} cannot be replaced ({error.strerror}): choose another folder") from None
    shutil.rmtree(old, ignore_errors=True)
