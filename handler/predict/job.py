"""What a job is: its command line, its model and its answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from handler.predict.worker import Answer

Answers = Generator[Answer, None, None]


@dataclass(frozen=True)
class Job:
    """The command line; ``options`` are those of a request."""

    model: str
    sources: Sequence[str]
    output: str
    options: Mapping[str, str] = field(default_factory=dict)
    format: str = "coco"
    overlay: bool = False
    fps: float | None = None
    token: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    ray: str | None = None
    shard_size: int = 1000
    stall_timeout: int = 300

    @property
    def folder(self) -> Path:
        """The output, where it is a folder of this machine."""
        return Path(self.output.removeprefix("file://")).resolve()


@dataclass(frozen=True)
class Model:
    """A model that is ready to answer.

    Attributes:
        identity: the same for models whose answers are the same; a job is continued only with its own model.
        classes: names, in the order of the class ids.
        answer: options and photos → each photo with its answer, once, in any order.
    """

    identity: str
    version: str
    classes: list[str]
    answer: Callable[[Mapping[str, str], Sequence[str]], Answers]
