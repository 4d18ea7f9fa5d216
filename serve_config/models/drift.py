"""Whether the pictures since the start differ from those that the model was judged by."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

SERVED = re.compile(
    r'^maskrcnn_uncertainty_(?P<what>sum|count)\{.*?version="(?P<version>[^"]*)".*?\} (?P<value>\S+)$', re.M
)
ENOUGH = 50  # pictures


def drift(page: str, version: str, usual: Mapping[str, float] | None) -> str:
    """What to tell the operator if the mean uncertainty is over three standard errors from that on val, else "".

    Args:
        page: the metrics, as Prometheus reads them.
        usual: of the val photos in the archive's operating point: ``photos``, and ``mean`` and ``std`` of what
            ``maskrcnn_uncertainty`` counts; None where it was not measured.
    """
    served = {
        found["what"]: float(found["value"]) for found in SERVED.finditer(page) if found["version"] == version
    }
    if usual is None or served.get("count", 0) < ENOUGH:
        return ""
    mean = served["sum"] / served["count"]
    error = usual["std"] * math.sqrt(1 / usual["photos"] + 1 / served["count"])
    if abs(mean - usual["mean"]) <= 3 * error:
        return ""
    return (
        f"{served['count']:.0f} pictures since the start differ from the val photos: uncertainty {mean:.3f} "
        f"instead of {usual['mean']:.3f}"
    )
