"""The commands ``export`` and ``publish``."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

PATH, COUNT, POINTS = click.Path(path_type=Path), click.IntRange(min=1), click.FloatRange(min=0)
ENGINE = click.Choice(["openvino", "torch"])


def count_workers(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """The number behind ``--workers``; None leaves it to the server, as ``auto`` does without a GPU."""
    if value == "auto":
        from finetune.training.machine import workers_that_fit

        workers = workers_that_fit()
        click.echo(f"workers: {workers or 'as the server decides, without a GPU here'}", err=True)
        return workers
    return None if value is None else COUNT(value, option, context)


EXPORT_EPILOG = """\b
Examples:
  maskrcnn export runs/resnet50_fpn
  maskrcnn export runs/resnet50_fpn_more_data --version resnet50_fpn.2
  maskrcnn export runs/resnet50_fpn --data data/mugs --max-loss 0.5
  maskrcnn export runs/resnet50_fpn INPUT.MIN_SIZE_TEST 480 MODEL.RPN.POST_NMS_TOPK_TEST 300
"""
PUBLISH_EPILOG = """\b
Example:
  maskrcnn publish runs/mobilenetv2_fpn mobilenetv2_fpn_mugs.safetensors
"""


@click.command(epilog=EXPORT_EPILOG)
@click.argument("run", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--version", help="The archive's version in TorchServe.  [default: the name of the backbone]")
@click.option("--output", type=PATH, default="model_store", metavar="DIR", help="[default: model_store]")
@click.option("--engine", type=ENGINE, default="openvino", help="What CPUs run it in.  [default: openvino]")
@click.option("--data", type=PATH, metavar="DIR", help="Measure the archive on this data set; try int8.")
@click.option("--max-loss", type=POINTS, default=1.0, help="Mask AP that it may lose there.  [default: 1]")
@click.option("--fp32", is_flag=True, help="Serve in 32 bits, not in what is fastest there.")
@click.option(
    "--workers",
    metavar="N|auto",
    callback=count_workers,
    help="TorchServe workers; auto: as this machine's GPUs allow.  [default: as `serve start` says]",
)
@click.option("--batch-size", type=COUNT, help="Requests to predict together, for GPUs.  [default: 1]")
@click.pass_context
def export(context: click.Context, run: Path, **options: Any) -> None:
    """Package a trained model as a TorchServe archive (.mar).

    RUN is a run folder or a published checkpoint; what `maskrcnn tune` chose for it is applied. The archive is tried on
    a picture before it is put into place. With --data, it is measured on the test split (or val) and refused if its AP
    is lower than the trained model's; an 8-bit model becomes the default on CPUs if it keeps the AP and is faster here.
    KEY VALUE pairs change the config to serve with, such as the input size, instead of what was tuned. With another
    config, the card leaves out the evaluation, which was made with the old one.
    """
    from finetune.export import archive

    if options["data"] is None and context.get_parameter_source("max_loss") is not ParameterSource.DEFAULT:
        raise click.UsageError("--max-loss needs a data set to measure on: add --data DIR")
    click.echo(archive.export(run, archive.Options(**options)))


@click.command(epilog=PUBLISH_EPILOG)
@click.argument("run", type=PATH)
@click.argument("file", type=PATH)
def publish(run: Path, file: Path) -> None:
    """Write a run as one small checkpoint.

    FILE (.safetensors) gets the best weights of the folder RUN in half precision, with config, classes and record
    inside; `train --weights`, `evaluate` and `export` read it. Run `evaluate` on FILE to measure the loss from fp16.
    """
    from finetune.export import publish as publishing

    publishing.publish(run, file)
    click.echo(file)
