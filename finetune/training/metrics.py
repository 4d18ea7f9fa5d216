"""``metrics.json`` and TensorBoard events of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import UserError
from finetune.files import reason_of, write_atomically

if TYPE_CHECKING:
    from detectron2.utils.events import EventWriter


def write_metrics(run: Path, writers: Iterable[EventWriter]) -> None:
    """Let Detectron2's writers append what has been logged.

    Raises:
        UserError: the disk is full.
    """
    try:
        for writer in writers:
            writer.write()
    except OSError as error:
        raise UserError(
            f"the metrics could not be written to {run} ({reason_of(error)}): free some space and continue with "
            "--resume"
        ) from error


def drop_metrics_from(metrics: Path, step: int) -> None:
    """Drop metrics logged at ``step`` or later, which a resumed run logs again, and a truncated last line."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["iteration"] < step:
                kept.append(line)
        except ValueError:
            continue
    write_atomically(metrics, lambda temporary: temporary.write_text("".join(kept), encoding="utf-8"))
