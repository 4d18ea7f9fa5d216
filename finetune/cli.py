"""The command line ``python -m finetune COMMAND``.

Every command lives in a module of its own that offers ``add_parser(subparsers)``. Heavy imports wait until a
command runs, so that ``--help`` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence

import finetune.data.cli
import finetune.evaluation.compare
import finetune.evaluation.report
import finetune.export.archive
import finetune.export.publish
import finetune.training.launch
from finetune.errors import UserError

COMMANDS = (
    finetune.data.cli,
    finetune.training.launch,
    finetune.evaluation.report,
    finetune.evaluation.compare,
    finetune.export.publish,
    finetune.export.archive,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``args.run`` is the chosen one, a function ``(args) -> exit status``."""
    parser = argparse.ArgumentParser(
        prog="python -m finetune",
        description="Fine-tune Detectron2's Mask R-CNN on a small data set and package it for TorchServe.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0 done, 1 an error that the user can mend, 2 wrong usage, 130 Ctrl-C."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if not hasattr(args, "overrides") or any(argument.startswith("--") for argument in rest):
        args = parser.parse_args(argv)  # complains of what it does not know
    else:
        args.overrides += rest  # argparse leaves the KEY VALUE pairs that stand behind an option
    try:
        return args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped", file=sys.stderr)
        return 130
