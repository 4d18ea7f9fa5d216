"""How far the training is, on the terminal or in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """A bar with the time left on a terminal; a line now and then where the output goes to a file."""

    LINE_EVERY = 20  # seconds

    def __init__(self, start: int, end: int, *, quiet: bool = False) -> None:
        self.end = end
        self.lines = not quiet and not sys.stderr.isatty()
        self.bar = tqdm(
            initial=start, total=end, unit="step", disable=quiet or self.lines, dynamic_ncols=True
        )
        self.started, self.start = time.monotonic(), start
        self.last_line = self.started
        self.loss = 0.0

    def show(self, done: int, loss: float) -> None:
        """Tell that ``done`` steps of the whole run are done; ``loss`` is the last one's."""
        self.loss = loss if done == self.start + 1 else 0.9 * self.loss + 0.1 * loss
        self.bar.set_postfix(loss=f"{self.loss:.3f}", refresh=False)
        self.bar.update(done - self.bar.n)
        now = time.monotonic()
        if self.lines and (now - self.last_line > self.LINE_EVERY or done == self.end):
            self.last_line = now
            per_step = (now - self.started) / (done - self.start)
            left = tqdm.format_interval((self.end - done) * per_step)
            print(
                f"step {done}/{self.end}  loss {self.loss:.3f}  {per_step:.2f} s/step  {left} left",
                flush=True,
            )

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
