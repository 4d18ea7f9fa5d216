"""Fetch a file by URL: resumed where it broke off, kept in a cache.

Nothing is verified here: what a file must be is known to the caller.
"""

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


def download(url: str, target: Path, *, max_bytes: int) -> Path:
    """Fetch ``url`` to ``target``; a file that lies there already is kept.

    The bytes go to ``target`` + ``.part`` first, and a later call goes on where that ends (HTTP Range).

    Args:
        url: http, https or file.
        max_bytes: refuse more than this.

    Raises:
        UserError: unreachable or too large; it names the file to fetch by hand and where to put it.
    """
    if target.is_file():
        return target
    if not url.startswith(("http://", "https://", "file://")):
        raise UserError(f"{url} is no URL to download from: it must begin with https://, http:// or file://")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent, wait=True):  # two processes would append to one part
            if not target.is_file():
                _fetch(url, part, max_bytes)
                os.replace(part, target)
    except (OSError, http.client.HTTPException) as error:  # urllib's URLError is an OSError
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(
            f"cannot download {url} ({reason}): fetch that file in another way and put it at {target}"
        ) from None
    return target


def _fetch(url: str, part: Path, max_bytes: int) -> None:
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "detectron2-maskrcnn-service"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 the scheme was checked
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code != 416 or not have:  # 416: our part is as long as the file, or of an older file
            raise
        part.unlink()
        return _fetch(url, part, max_bytes)
    with response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # the server sends all of it
        length = int(response.headers.get("Content-Length") or 0)
        total = have + length
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(
                total=total or None,
                initial=have,
                unit="B",
                unit_scale=True,
                desc=part.stem,
                leave=False,
                disable=None,
            ) as bar,
        ):
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
