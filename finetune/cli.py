"""The commands of this room, and the group that ``python -m finetune`` runs.

Modules that define commands import only click and the standard library; torch and Detectron2 are imported when a
command runs, so ``--help`` answers at once.
"""

import click

from finetune.data.cli import data
from finetune.evaluation.cli import compare, evaluate, tune
from finetune.export.cli import export, publish
from finetune.training.cli import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def finetune() -> None:
    """Fine-tune Mask R-CNN on your photos and package it for TorchServe."""


for _command in (data, train, evaluate, compare, tune, publish, export):
    finetune.add_command(_command)
