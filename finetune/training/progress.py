"""Beside the training: a progress bar or lines on stderr, the metrics in the run folder, Ctrl-C and SIGTERM."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from tqdm import tqdm

from finetune.errors import UserError
from finetune.files import reason_of, write_atomically

SECONDS_BETWEEN_LINES = 20


class Progress:
    """A progress bar on a terminal; a line every 20 seconds where stderr goes to a file or a pipe."""

    def __init__(self, start: int, end: int, *, quiet: bool = False) -> None:
        self.start, self.end = start, end
        self.lines = not quiet and not sys.stderr.isatty()
        self.bar = tqdm(
            initial=start, total=end, unit="step", disable=quiet or self.lines, dynamic_ncols=True
        )
        self.started = self.last_line = time.monotonic()
        self.loss: float | None = None

    def show(self, done: int, loss: float) -> None:
        """Show that ``done`` steps of the whole run are done, and a running mean of the loss."""
        self.loss = loss if self.loss is None else 0.9 * self.loss + 0.1 * loss
        self.bar.set_postfix(loss=f"{self.loss:.3f}", refresh=False)
        self.bar.update(done - self.bar.n)
        now = time.monotonic()
        if self.lines and (now - self.last_line > SECONDS_BETWEEN_LINES or done == self.end):
            self.last_line = now
            per_step = (now - self.started) / (done - self.start)
            left = tqdm.format_interval((self.end - done) * per_step)
            self.say(f"step {done}/{self.end}  loss {self.loss:.3f}  {per_step:.2f} s/step  {left} left")

    def say(self, text: str) -> None:
        """Print a line to stderr, above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()


class Metrics:
    """Writes Detectron2's current ``EventStorage`` to ``metrics.json``, and TensorBoard events if it is installed.

    Args:
        run: the run folder.
        start: steps done before; metrics of later steps, which are about to be repeated, are dropped.
        quiet: write nothing.
    """

    def __init__(self, run: Path, start: int, *, quiet: bool = False) -> None:
        self.run = run
        self.writers: list[EventWriter] = []
        if not quiet:
            path = run / "metrics.json"
            drop_metrics_after(path, start)
            self.writers.append(JSONWriter(str(path)))
            if find_spec("tensorboard"):
                self.writers.append(TensorboardXWriter(str(run)))

    def write(self) -> None:
        """Append what was logged since the last call.

        Raises:
            UserError: the disk is full.
        """
        try:
            for writer in self.writers:
                writer.write()
        except OSError as error:
            raise UserError(
                f"the metrics could not be written to {self.run} ({reason_of(error)}): free some space and continue "
                "with --resume"
            ) from error

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


def drop_metrics_after(path: Path, step: int) -> None:
    """Drop metrics logged after ``step`` steps, and a truncated last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            if json.loads(line)["iteration"] < step:
                kept.append(line)
    write_atomically(path, lambda temporary: temporary.write_text("".join(kept), encoding="utf-8"))


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list that is read between two steps, so that no step is cut short."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
