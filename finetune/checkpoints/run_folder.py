"""What a run leaves on disk, written so that a power cut or a full disk never harms what was there before."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import UserError
from finetune.files import reason_of, write_atomically

if TYPE_CHECKING:
    import torch
    from detectron2.utils.events import EventWriter

LAST = "last.pth"
BEST = "model_best.safetensors"


def save_best(run: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write ``model_best.safetensors``."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_atomically(run / BEST, lambda path: save_file(tensors, path, {"format": "pt"}))


def save_last(run: Path, state: dict[str, Any]) -> None:
    """Write ``last.pth``: all that a resumed run needs."""
    import torch

    write_atomically(run / LAST, lambda path: torch.save(state, path))


def load_last(run: Path) -> dict[str, Any]:
    """Read ``last.pth`` without running code from it.

    Raises:
        UserError: there is none, or it is damaged.
    """
    import torch

    path = run / LAST
    if not path.exists():
        raise UserError(f"{run} holds no {LAST} to resume from: leave --resume out to start a new run")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is damaged: start a new run from the best checkpoint instead, with --weights {run / BEST}"
        ) from error


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
            f"the metrics could not be written to {run} ({reason_of(error)}): make room there and go on with --resume"
        ) from error


def forget_after(metrics: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run takes again, and one that a full disk or a power cut has torn."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text().splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            if json.loads(line)["iteration"] < step:
                kept.append(line)
    write_atomically(metrics, lambda path: path.write_text("".join(kept)))
