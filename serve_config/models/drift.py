"""Whether this week's pictures differ from those that the model was judged by.

TorchServe counts since its start. ``status`` notes the counts once a day in ``drift.json`` of the state folder, and
subtracts those of the earliest note of the last seven days. Without one, it speaks of all pictures since the start.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from serve_config.server.state import Home, write_atomically

SERVED = re.compile(
    r'^maskrcnn_uncertainty_(?P<what>sum|count)\{.*?version="(?P<version>[^"]*)".*?\} (?P<value>\S+)$', re.M
)
ENOUGH = 50  # pictures
DAYS = timedelta(days=7)

NOTHING = {"count": 0.0, "sum": 0.0}

Counts = dict[str, dict[str, float]]
"""Version → ``count`` of its pictures and ``sum`` of their uncertainty."""


@dataclass(frozen=True)
class Week:
    """The counts of now, and those that were noted on the day ``since``."""

    now: Counts
    before: Counts
    since: str

    @classmethod
    def of(cls, home: Home, page: str, today: date) -> Week:
        """Note today's counts from the metrics as Prometheus reads them, and find those of a week ago."""
        now: Counts = {}
        for each in SERVED.finditer(page):
            now.setdefault(each["version"], {})[each["what"]] = float(each["value"])
        file, notes, day = home.path / "drift.json", dict[str, Counts](), str(today)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # there is none yet, or it is damaged
            notes = {d: each for d, each in json.loads(file.read_text()).items() if d >= str(today - DAYS)}
        latest = notes[max(notes)] if notes else {}
        if any(each["count"] > now.get(version, NOTHING)["count"] for version, each in latest.items()):
            notes = {}  # the server has been started again
        if day not in notes:
            with contextlib.suppress(OSError):  # on a full disk the status is still of use
                write_atomically(file, json.dumps(notes | {day: now}))
        since = min((d for d in notes if d < day), default="")
        return cls(now, notes.get(since, {}), since or "the start")

    def drift(self, version: str, usual: Mapping[str, float] | None) -> str:
        """A sentence for the operator if the mean uncertainty lies over three standard errors from val's, else "".

        Args:
            usual: of the val photos in the archive's operating point: ``photos``, and ``mean`` and ``std`` of what
                ``maskrcnn_uncertainty`` counts; None where it was not measured.
        """
        now, before = self.now.get(version, NOTHING), self.before.get(version, NOTHING)
        count = now["count"] - before["count"]
        if usual is None or count < ENOUGH:
            return ""
        mean = (now["sum"] - before["sum"]) / count
        error = usual["std"] * math.sqrt(1 / usual["photos"] + 1 / count)
        if abs(mean - usual["mean"]) <= 3 * error:
            return ""
        return (
            f"{count:.0f} pictures since {self.since} differ from the val photos: uncertainty {mean:.3f} instead of "
            f"{usual['mean']:.3f}"
        )
