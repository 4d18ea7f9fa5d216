"""Download archives into a model store, each checked against its SHA-256.

For machines without archives of their own, such as pods: the list is part of the configuration, and the archives
are on any web server or object store.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests

from serve_config.errors import ServeError
from serve_config.models.archives import SAFE_NAME
from serve_config.models.management import Say

CHUNK = 2**20  # bytes
_LINE = re.compile(r"(?P<sha256>[0-9a-fA-F]{64})\s+\*?(?P<url>(https|http|file)://\S+)")


@dataclass(frozen=True)
class Wanted:
    """One line of the list; ``name`` is the file name in the store."""

    sha256: str
    url: str
    name: str


def read_list(source: str) -> list[Wanted]:
    """Parse a list of archives: a line ``SHA256  URL`` each, as ``sha256sum`` writes them; ``#`` begins a comment.

    ``source`` is a file, or ``-`` for standard input. Raises ServeError.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"the list {source} cannot be read ({error})") from error
    wanted = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        found = _LINE.fullmatch(content)
        name = urlsplit(found["url"]).path.rpartition("/")[2] if found else ""
        if not found or not SAFE_NAME.fullmatch(name) or not name.endswith(".mar"):
            raise ServeError(
                f"line {number} of the list is not `SHA256  https://…/NAME.mar`: {content[:120]}"
            )
        wanted.append(Wanted(found["sha256"].lower(), found["url"], name))
    return wanted


def fetch(wanted: Wanted, store: Path, say: Say) -> Path:
    """Download one archive unless the store has it; it gets its name only if its SHA-256 is right.

    Raises ServeError; the store is then unchanged.
    """
    target = store / wanted.name
    if target.exists():
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256:
                return target
        raise ServeError(f"{target} exists and has another SHA-256: give the new archive another name")
    say(f"fetching {wanted.url} …")
    temporary = store / f".{wanted.name}.part"
    digest = hashlib.sha256()
    try:
        store.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for chunk in _chunks(wanted.url):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != wanted.sha256:
            raise ServeError(
                f"{wanted.url} has the SHA-256 {digest.hexdigest()}; the list says {wanted.sha256}: "
                "correct the list, or upload the archive again"
            )
        temporary.replace(target)
    except (OSError, requests.RequestException) as error:
        raise ServeError(f"{wanted.url} cannot be fetched into {store}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _chunks(url: str) -> Iterator[bytes]:
    if url.startswith("file:"):
        with open(url2pathname(urlsplit(url).path), "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
        return
    with requests.get(url, stream=True, timeout=60) as reply:
        reply.raise_for_status()
        yield from reply.iter_content(CHUNK)
