"""The commands of this room, and the group that ``python -m finetune`` runs.

Modules that define commands import only click and the standard library; torch and Detectron2 are imported when a
command runs, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import click

from finetune.export.cli import export, publish


def _command(name: str, module: str, old_module: str) -> click.Command:
    """The command from its click module, or wrapped around the argparse one that it replaces."""
    if find_spec(module) and hasattr(import_module(module), name):
        return getattr(import_module(module), name)

    @click.command(name, add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    def command(words: tuple[str, ...]) -> int:
        parser = argparse.ArgumentParser("python -m finetune")
        import_module(old_module).add_parser(parser.add_subparsers())
        args, rest = parser.parse_known_args([name, *words])
        if not hasattr(args, "overrides") or any(word.startswith("--") for word in rest):
            args = parser.parse_args([name, *words])
        else:
            args.overrides += rest
        return args.run(args)

    return command


data = _command("data", "finetune.data.cli", "finetune.data.cli")
train = _command("train", "finetune.training.cli", "finetune.training.launch")
evaluate = _command("evaluate", "finetune.evaluation.cli", "finetune.evaluation.report")
compare = _command("compare", "finetune.evaluation.cli", "finetune.evaluation.compare")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def finetune() -> None:
    """Fine-tune Mask R-CNN on your photos and package it for TorchServe."""


for _each in (data, train, evaluate, compare, publish, export):
    finetune.add_command(_each)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    from maskrcnn import run

    return run(finetune, "python -m finetune", argv)
