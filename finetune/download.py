"""Download files into a cache: resumed after an interruption, verified by checksum."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from finetune.errors import UserError
from finetune.files import locked

CHUNK = 1 << 18  # bytes
TIMEOUT = 30  # seconds without a byte


def cache_folder() -> Path:
    """Where downloads are kept: ``$MASKRCNN_CACHE``, else ``~/.cache/maskrcnn``."""
    return Path(os.environ.get("MASKRCNN_CACHE") or Path.home() / ".cache" / "maskrcnn")


def download(url: str, target: Path, *, max_bytes: int, checksum: tuple[str, str] | None = None) -> Path:
    """Download ``url`` to ``target``, unless that file exists.

    The bytes go to ``target`` + ``.part`` first, which a later call resumes (HTTP Range).

    Args:
        url: http, https or file.
        max_bytes: the largest size to accept.
        checksum: (algorithm, leading hex digits), such as ``("sha256", "b0353104")``; an existing file is verified too.

    Raises:
        UserError: unreachable (the message names the file to download by hand and where to put it), too large, or
            another file than ``checksum`` says.
    """
    if not url.startswith(("http://", "https://", "file://")):
        raise UserError(f"{url} is not a URL to download from: begin it with https://, http:// or file://")
    try:
        if not target.is_file():
            with locked(target.parent, wait=True):  # two processes must not append to the same part
                if not target.is_file():
                    part = target.with_name(target.name + ".part")
                    _fetch(url, part, max_bytes)
                    os.replace(part, target)
    except (OSError, http.client.HTTPException) as error:  # urllib's URLError is an OSError
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(
            f"cannot download {url} ({reason}): download that file in another way and put it at {target}"
        ) from None
    if checksum:
        _verify(target, url, *checksum)
    return target


def _fetch(url: str, part: Path, max_bytes: int) -> None:
    """Append to ``part`` what it lacks of ``url``."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "detectron2-maskrcnn-service"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 the scheme was checked
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code != 416 or not have:  # 416: the part is already as long as the file
            raise
        part.unlink()
        return _fetch(url, part, max_bytes)
    if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        have = 0  # the server ignores the range and sends the whole file
    length = int(response.headers.get("Content-Length") or 0)
    total = have + length
    bar = tqdm(
        total=total or None,
        initial=have,
        unit="B",
        unit_scale=True,
        desc=part.stem,
        leave=False,
        disable=None,
    )
    with response, part.open("ab" if have else "wb") as file, bar:
        while chunk := response.read(CHUNK):
            have += len(chunk)
            if have > max_bytes:
                part.unlink()
                raise OSError(f"it is larger than {max_bytes:,} bytes")
            file.write(chunk)
            bar.update(len(chunk))
    if length and have < total:
        raise OSError(f"it broke off after {have:,} of {total:,} bytes; the same command goes on from there")
    return None


def _verify(path: Path, url: str, algorithm: str, prefix: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if not digest.startswith(prefix):
        path.unlink()
        raise UserError(
            f"{url} has changed or was damaged on the way (its {algorithm} begins with {digest[: len(prefix)]}, not "
            f"{prefix}): the file was removed; run the command again, or give --weights another file"
        )
