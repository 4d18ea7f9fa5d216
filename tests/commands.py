"""Run a command line in this process."""

from collections.abc import Sequence

from finetune.cli import finetune as group
from maskrcnn import run


def finetune(argv: Sequence[object]) -> int:
    """``maskrcnn ARGV`` with the commands of finetune; returns the exit status."""
    return run(group, "maskrcnn", [str(word) for word in argv])
