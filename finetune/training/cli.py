"""``maskrcnn train``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

PATH, COUNT, FOLDS = click.Path(path_type=Path), click.IntRange(min=1), click.IntRange(min=3)
TIME = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("backbone")
@click.option("--data", type=PATH, required=True, metavar="DIR", help="A data set made by `maskrcnn data …`.")
@click.option("--weights", metavar="SPEC", help="coco (the default), imagenet, none, a file or a URL.")
@click.option("--output", type=PATH, metavar="RUN", help="The run folder.  [default: runs/BACKBONE]")
@click.option("--resume", is_flag=True, help="Continue the training in the run folder.")
@click.option("--folds", type=FOLDS, metavar="K", help="Train K models instead; each photo is tested once.")
@click.option("--minutes", type=TIME, metavar="M", help="Train as many steps as fit into this time.")
@click.option("--stop-after", type=COUNT, metavar="STEPS", help="Stop early, to be resumed later.")
@click.option("--num-gpus", type=COUNT, default=1, metavar="N", help="Processes, one GPU each.")
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
def train(folds: int | None, num_gpus: int, **request: Any) -> None:
    """Fine-tune a backbone on a data set.

    BACKBONE is resnet50_fpn, resnet101_fpn, mobilenetv2_fpn or vovnet19_fpn. KEY VALUE pairs override its config.

    The run folder gets model_best.safetensors (the best checkpoint by mask AP on the val split), last.pth (to resume
    from), config.yaml, run.json, metrics.json, curves.png and, where it is installed, TensorBoard events. Ctrl-C saves
    before it stops.

    With --folds K, K models share the photos of train and val: each is tested on a Kth that it has never seen. The
    pooled figures, with an interval, tell what to expect of a model trained on the data set. RUN/evaluation/folds gets
    the report.

    \b
    Examples:
      maskrcnn train mobilenetv2_fpn --data data/balloon
      maskrcnn train resnet50_fpn --data data/balloon --weights imagenet \\
          SOLVER.MAX_ITER 600 SOLVER.BASE_LR 0.0001
      maskrcnn train mobilenetv2_fpn --data data/balloon --minutes 30
      maskrcnn train resnet50_fpn --data data/balloon --resume
      maskrcnn train mobilenetv2_fpn --data data/balloon --folds 5
      torchrun --nproc-per-node 4 -m finetune train resnet50_fpn --data data/balloon
    """
    from finetune.training.launch import launch, prepare

    # a shell's `&` starts commands with SIGINT ignored: let it stop a training all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if folds:
        _cross_validate(folds, num_gpus, request)
        return
    job = prepare(**request)
    if launch(job, num_gpus):
        click.echo(job.run)


def _cross_validate(folds: int, num_gpus: int, request: dict[str, Any]) -> None:
    from tabulate import tabulate

    from finetune.evaluation.report_text import report_rows
    from finetune.training.folds import cross_validate

    for option in ("minutes", "stop_after"):
        if request.pop(option):
            name = option.replace("_", "-")
            raise click.UsageError(f"--{name} belongs to one training: leave it out with --folds")
    report, folder = cross_validate(folds, num_gpus, **request)
    click.echo(tabulate(report_rows(report, ["AP"]), headers="firstrow", disable_numparse=True))
    click.echo(report["expectation"])
    click.echo(folder / "report.md")
