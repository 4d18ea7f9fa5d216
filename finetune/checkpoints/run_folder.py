"""What a run leaves on disk, written so that a power cut or a full disk never harms what was there before."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from detectron2.utils.events import EventWriter

LAST = "last.pth"
BEST = "model_best.safetensors"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a temporary file beside ``path``, then rename it into place.

    Raises:
        UserError: the disk is full or the folder cannot be written; the file that was there is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # safetensors makes its files private; TorchServe may run as somebody else
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save's full disk is a RuntimeError
        raise UserError(
            f"{path.name} could not be written to {path.parent} ({_reason(error)}): make room there and run again "
            "(a training with --resume); the file written before is unharmed"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return error.strerror or "no reason given" if isinstance(error, OSError) else str(error).splitlines()[0]


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


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, readable by people."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read JSON that this module wrote.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({_reason(error)}): start a new run") from error


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
            f"the metrics could not be written to {run} ({_reason(error)}): make room there and go on with --resume"
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


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run folder for this process; a second training into it is refused.

    Raises:
        UserError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another training is writing to {run}: wait for it, or choose another --output"
            ) from None
        yield
