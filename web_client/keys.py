"""TorchServe's keys, read from the ``key_file.json`` that it writes and rewrites."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

log = logging.getLogger("web_client")


class KeyFile:
    """TorchServe 0.12's three keys: ``inference`` and ``management`` (60 minutes), ``API`` (renews them).

    The file is read again whenever it has changed. It may be missing (TorchServe is not up yet): then there
    are no keys.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._content: dict[str, Any] = {}

    def key(self, kind: str) -> str | None:
        """The key of that kind, or None."""
        return self._entry(kind).get("key")

    def expired(self, kind: str) -> bool:
        """Whether the file itself says that the key's time is over."""
        text = self._entry(kind).get("expiration time")
        if not text:
            return False
        try:
            # Java writes nanoseconds and a Z; the seconds are enough.
            return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC) <= datetime.now(UTC)
        except ValueError:
            return False

    def _entry(self, kind: str) -> dict[str, str]:
        entry = self._read().get(kind)
        return entry if isinstance(entry, dict) else {}

    def _read(self) -> dict[str, Any]:
        with self._lock:
            try:
                stat = self.path.stat()
                seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                if seen != self._seen:
                    self._content = self._load()
                    self._seen = seen
            except (OSError, ValueError) as error:
                if self._seen is not None or not isinstance(error, FileNotFoundError):
                    log.warning("cannot read TorchServe's key file: %s", type(error).__name__)
                self._seen, self._content = None, {}
            return self._content

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text())
        except ValueError:
            time.sleep(0.05)  # TorchServe was just writing it
            content = json.loads(self.path.read_text())
        return content if isinstance(content, dict) else {}
