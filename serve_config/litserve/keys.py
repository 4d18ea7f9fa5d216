"""The authorization keys, in the file and form that TorchServe uses, so that every client reads them alike."""

from __future__ import annotations

import hmac
import json
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serve_config.server.state import write_atomically

KINDS = ("management", "inference")


class Keys:
    """One key for each of KINDS, which expires after ``minutes``, and one named API that renews them."""

    def __init__(self, path: Path, minutes: int) -> None:
        self.path, self.lifetime = path, timedelta(minutes=minutes)
        self.keys = {"API": secrets.token_urlsafe(24)}
        self.expires: dict[str, datetime] = {}
        for kind in KINDS:
            self.renew(kind)

    def renew(self, kind: str) -> None:
        """Replace a key and write the file, for this user only."""
        self.keys[kind] = secrets.token_urlsafe(24)
        self.expires[kind] = datetime.now(UTC) + self.lifetime
        entries: dict[str, dict[str, str]] = {name: {"key": key} for name, key in self.keys.items()}
        for name, instant in self.expires.items():
            entries[name]["expiration time"] = instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        write_atomically(self.path, json.dumps(entries, indent=2))

    def accept(self, kind: str, authorization: str) -> bool:
        """Whether an ``Authorization`` header carries the key of that kind, still valid."""
        given = authorization.removeprefix("Bearer ").encode()
        fresh = kind not in self.expires or datetime.now(UTC) < self.expires[kind]
        return hmac.compare_digest(given, self.keys[kind].encode()) and fresh
