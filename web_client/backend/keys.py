"""TorchServe's authorization keys, read from the ``key_file.json`` that it writes and rewrites."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

log = logging.getLogger("web_client")


class KeyFile:
    """The keys in ``key_file.json``: ``inference`` and ``management`` (60 minutes), ``API`` (renews both).

    The file is small and read at each request. While it is missing (TorchServe is not up yet) there are no keys.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

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

    def _entry(self, kind: str) -> dict[str, Any]:
        for wait in (0.05, 0):
            try:
                entry = json.loads(self.path.read_text())[kind]
                return entry if isinstance(entry, dict) else {}
            except (OSError, LookupError, TypeError):
                break
            except ValueError:
                time.sleep(wait)  # TorchServe may be writing it
        return {}
