"""Bearer tokens: who may ask for predictions.

A token is 256 random bits, shown once when it is made; the file holds its SHA-256, a name, an expiry and a rate limit.
The file is read again whenever it changes, so a revoked token stops working at once. A file that cannot be trusted
(readable by others, damaged, missing) grants nobody access.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import tempfile
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from web_client.config import rate_limit
from web_client.errors import WebClientError

log = logging.getLogger("web_client")

PREFIX = "mrcnn_"  # lets secret scanners recognize a token
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Token:
    """One line of the token file.

    Attributes:
        sha256: of the whole token, hexadecimal.
        created: ISO 8601, UTC.
        expires: ISO 8601, UTC, or None.
        rate_limit: such as ``60 per minute``; ``off`` for none, or None for the server's own limit.
    """

    name: str
    sha256: str
    created: str
    expires: str | None = None
    rate_limit: str | None = None

    @property
    def is_expired(self) -> bool:
        return self.expires is not None and datetime.now(UTC) >= datetime.fromisoformat(self.expires)


class TokenFile:
    """The token file. Several threads may use one object.

    Args:
        path: the file; :meth:`add` creates it with mode 0600.

    Raises:
        WebClientError: from every method, if the file exists but cannot be trusted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._by_digest: dict[str, Token] = {}

    def find(self, secret: str) -> Token | None:
        """The token with this secret, or None if there is none or it has expired.

        The lookup is by hash, so its time says nothing about how much of a guess is right.
        """
        digest = hashlib.sha256(secret.encode()).hexdigest()
        token = self._read().get(digest)
        if token is None or not hmac.compare_digest(token.sha256, digest) or token.is_expired:
            return None
        return token

    def all(self) -> list[Token]:
        """All tokens, in the order in which they were made."""
        return list(self._read().values())

    def add(self, name: str, days: float | None = None, rate_limit: str | None = None) -> str:
        """Make a token and return its secret, which is stored nowhere."""
        if not NAME.fullmatch(name):
            raise WebClientError(f"{name!r} is not a token name: use letters, digits, '.', '_' and '-'")
        tokens = self.all() if self.path.exists() else []
        if any(token.name == name for token in tokens):
            raise WebClientError(f"there is a token {name} already: revoke it first, or choose another name")
        secret = PREFIX + secrets.token_urlsafe(32)
        now = datetime.now(UTC).replace(microsecond=0)
        expires = (now + timedelta(days=days)).isoformat() if days else None
        digest = hashlib.sha256(secret.encode()).hexdigest()
        self._write([*tokens, Token(name, digest, now.isoformat(), expires, rate_limit)])
        return secret

    def revoke(self, name: str) -> None:
        tokens = self.all()
        kept = [token for token in tokens if token.name != name]
        if len(kept) == len(tokens):
            names = ", ".join(token.name for token in tokens) or "none"
            raise WebClientError(f"there is no token {name} (there are: {names})")
        self._write(kept)

    def _read(self) -> dict[str, Token]:
        with self._lock:
            try:
                status = self.path.stat()
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode)
                if stamp != self._stamp:
                    if status.st_mode & 0o077:
                        raise WebClientError(
                            f"{self.path} can be read by other users: run `chmod 600 {self.path}`"
                        )
                    self._by_digest = _parse(json.loads(self.path.read_text(encoding="utf-8")))
                    self._stamp = stamp
            except (OSError, ValueError, KeyError, TypeError, click.BadParameter) as error:
                self._stamp = None
                cause = error.strerror if isinstance(error, OSError) else "it is damaged"
                raise WebClientError(
                    f"the token file {self.path} cannot be read ({cause}): make one with `maskrcnn web token add`"
                ) from None
            return self._by_digest

    def _write(self, tokens: list[Token]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent)  # with mode 0600
        with open(handle, "w", encoding="utf-8") as file:
            json.dump({"tokens": [asdict(token) for token in tokens]}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)


def _parse(content: dict[str, Any]) -> dict[str, Token]:
    """The tokens by digest; raises an error for anything that ``add`` does not write."""
    tokens = [Token(**entry) for entry in content["tokens"]]
    for token in tokens:
        if not (NAME.fullmatch(token.name) and re.fullmatch(r"[0-9a-f]{64}", token.sha256)):
            raise ValueError(token.name)
        if token.expires is not None and datetime.fromisoformat(token.expires).tzinfo is None:
            raise ValueError(token.expires)
        if token.rate_limit is not None:
            rate_limit(token.rate_limit)
    return {token.sha256: token for token in tokens}
