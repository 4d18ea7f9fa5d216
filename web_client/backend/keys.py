"""TorchServe's authorization keys, read from the ``key_file.json`` that it writes and rewrites."""

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
    """The keys in ``key_file.json``: ``inference`` and ``management`` (60 minutes), ``API`` (renews both).

    Read again whenever the file changes. While it is missing (TorchServe is not up yet) there are no keys.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._content: dict[str, Any] = {}

    def key(self, kind: str) -> str | None:
        """The key of that kind, or None."""
        return self._entry(kind).get("key")

    def expired(self, kind: str) -> bool:
        """Whether the key's expiration time has passed."""
        try:
            # Java writes nanoseconds and a Z; whole seconds are enough.
            until = datetime.fromisoformat(self._entry(kind).get("expiration time", "")[:19])
        except ValueError:
            return False
        return until.replace(tzinfo=UTC) <= datetime.now(UTC)

    def _entry(self, kind: str) -> dict[str, str]:
        entry = self._read().get(kind)
        return entry if isinstance(entry, dict) else {}

    def _read(self) -> dict[str, Any]:
        with self._lock:
            try:
                stat = self.path.stat()
                stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                if stamp != self._stamp:
                    self._content = self._load()
                    self._stamp = stamp
            except (OSError, ValueError) as error:
                if self._stamp is not None or not isinstance(error, FileNotFoundError):
                    log.warning("cannot read TorchServe's key file: %s", type(error).__name__)
                self._stamp, self._content = None, {}
            return self._content

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text())
        except ValueError:
            time.sleep(0.05)  # TorchServe may be writing it
            content = json.loads(self.path.read_text())
        return content if isinstance(content, dict) else {}
