"""The commands ``export`` and ``publish``."""

from pathlib import Path

import click

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
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--version", help="The archive's version in TorchServe.  [default: the name of the backbone]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("model_store"),
    show_default=True,
    metavar="DIR",
    help="The folder to write to.",
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
    type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="The number format to serve in; auto chooses by the CPU or GPU when the server starts.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="TorchServe workers; wins over `serve start --workers`.  [default: the server's]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Requests to predict together; only a GPU gains from more than 1.  [default: 1]",
)
@click.option(
    "--int8", is_flag=True, help="Add an 8-bit model and record its loss of AP; needs --calibration."
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="A data set; its val split calibrates the 8-bit model.",
)
def export(
    run: Path,
    overrides: tuple[str, ...],
    version: str | None,
    output: Path,
    engine: str,
    precision: str,
    workers: int | None,
    batch_size: int | None,
    int8: bool,
    calibration: Path | None,
) -> None:
    """Package a trained model as a TorchServe archive (.mar).

    RUN is a run folder or a published checkpoint. The archive is tried on a picture before it is put into place.
    KEY VALUE pairs change the config to serve with, such as the input size; the card then leaves out the evaluation,
    which was made with the old one.
    """
    from finetune.export import archive

    if int8 != (calibration is not None):
        raise click.UsageError("--int8 and --calibration go together: give both, or neither")
    if precision == "int8" and not int8:
        raise click.UsageError("--precision int8 needs an 8-bit model: add --int8 --calibration DATA")
    if int8 and engine != "openvino":
        raise click.UsageError("--int8 needs OpenVINO: leave --engine torch out")
    options = archive.Options(
        version=version,
        output=output,
        engine=engine,
        precision=precision,
        workers=workers,
        batch_size=batch_size,
        calibration=calibration,
        overrides=overrides,
    )
    click.echo(archive.export(run, options))


@click.command(epilog=PUBLISH_EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
def publish(run: Path, file: Path) -> None:
    """Write a run as one small checkpoint.

    FILE (.safetensors) gets the best weights of the folder RUN in half precision, with config, classes and record
    inside; `train --weights`, `evaluate` and `export` read it. Run `evaluate` on FILE to measure the loss from fp16.
    """
    from finetune.export import publish as publishing

    publishing.publish(run, file)
    click.echo(file)
