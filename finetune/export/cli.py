"""The commands ``export`` and ``publish``."""

from pathlib import Path
from typing import Any

import click

PATH, COUNT = click.Path(path_type=Path), click.IntRange(min=1)
PRECISIONS = ["auto", "fp32", "bf16", "fp16", "int8"]

EXPORT_EPILOG = """\b
Examples:
  maskrcnn export runs/resnet50_fpn
  maskrcnn export runs/resnet50_fpn_more_data --version resnet50_fpn.2
  maskrcnn export runs/resnet50_fpn --int8 --calibration data/mugs --precision int8
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
@click.option(
    "--output", type=PATH, default="model_store", show_default=True, metavar="DIR", help="Write to here."
)
@click.option(
    "--engine",
    type=click.Choice(["openvino", "torch"]),
    default="openvino",
    show_default=True,
    help="openvino adds the network for OpenVINO, which is faster on a CPU; torch makes a smaller archive.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="The number format to serve in; auto chooses by the CPU or GPU when the server starts.",
)
@click.option("--workers", type=COUNT, help="TorchServe workers.  [default: as `serve start` says]")
@click.option("--batch-size", type=COUNT, help="Requests to predict together, for GPUs.  [default: 1]")
@click.option(
    "--int8", is_flag=True, help="Add an 8-bit model and record its loss of AP; needs --calibration."
)
@click.option("--calibration", type=PATH, metavar="DATA", help="A data set; its val split calibrates int8.")
def export(run: Path, int8: bool, **options: Any) -> None:
    """Package a trained model as a TorchServe archive (.mar).

    RUN is a run folder or a published checkpoint. The archive is tried on a picture before it is put into place.
    KEY VALUE pairs change the config to serve with, such as the input size; the card then leaves out the evaluation,
    which was made with the old one.
    """
    from finetune.export import archive

    if int8 != (options["calibration"] is not None):
        raise click.UsageError("--int8 and --calibration go together: give both, or neither")
    if options["precision"] == "int8" and not int8:
        raise click.UsageError("--precision int8 needs an 8-bit model: add --int8 --calibration DATA")
    if int8 and options["engine"] != "openvino":
        raise click.UsageError("--int8 needs OpenVINO: leave --engine torch out")
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
