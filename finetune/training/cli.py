"""``maskrcnn train``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

PATH, COUNT = click.Path(path_type=Path), click.IntRange(min=1)


@click.command()
@click.argument("backbone")
@click.option("--data", type=PATH, required=True, metavar="DIR", help="A data set made by `maskrcnn data …`.")
@click.option(
    "--weights", metavar="SPEC", help="Start from coco, imagenet, none, a file or a URL.  [default: coco]"
)
@click.option("--output", type=PATH, metavar="RUN", help="The run folder.  [default: runs/BACKBONE]")
@click.option("--resume", is_flag=True, help="Continue the training in the run folder.")
@click.option("--stop-after", type=COUNT, metavar="STEPS", help="Stop early, to be resumed later.")
@click.option(
    "--num-gpus", type=COUNT, default=1, metavar="N", help="Processes on this machine, one GPU each."
)
@click.option("--num-machines", type=COUNT, default=1, metavar="N", help="Machines that take part.")
@click.option(
    "--machine-rank", type=click.IntRange(min=0), default=0, metavar="R", help="Which one this is, from 0."
)
@click.option("--dist-url", default="auto", metavar="URL", help="Where they meet: tcp://FIRST_MACHINE:PORT.")
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
def train(num_gpus: int, num_machines: int, machine_rank: int, dist_url: str, **request: Any) -> None:
    """Fine-tune a backbone on a data set.

    BACKBONE is resnet50_fpn, resnet101_fpn, mobilenetv2_fpn or vovnet19_fpn. KEY VALUE pairs override its config.

    The run folder gets model_best.safetensors (the best checkpoint by mask AP on the val split), last.pth (to resume
    from), config.yaml, run.json, metrics.json, curves.png and, where it is installed, TensorBoard events. Ctrl-C saves
    before it stops.

    \b
    Examples:
      maskrcnn train mobilenetv2_fpn --data data/balloon
      maskrcnn train resnet50_fpn --data data/balloon --weights imagenet \\
          SOLVER.MAX_ITER 600 SOLVER.BASE_LR 0.0001
      maskrcnn train resnet50_fpn --data data/balloon --resume
      torchrun --nproc-per-node 4 -m finetune train resnet50_fpn --data data/balloon
    """
    from finetune.training.launch import Processes, launch, prepare

    # a shell's `&` starts commands with SIGINT ignored: let it stop a training all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job = prepare(**request)
    if launch(job, Processes(num_gpus, num_machines, machine_rank, dist_url)):
        click.echo(job.run)
