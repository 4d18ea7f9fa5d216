"""``maskrcnn predict``."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

EPILOG = """\b
Examples:
  maskrcnn predict model_store/maskrcnn_resnet50_fpn.mar photos --output found
  maskrcnn predict model_store/maskrcnn_resnet50_fpn.mar a.jpg b.jpg --output found --overlay
  maskrcnn predict model_store/maskrcnn_resnet50_fpn.mar 's3://bucket/photos/*.jpg' --output s3://bucket/found \\
      --ray auto --format parquet --score-threshold 0.7
"""

COUNT = click.IntRange(min=1)


@click.command(epilog=EPILOG)
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--output", required=True, metavar="DIR", help="Where the answers go: a folder or an fsspec URI."
)
@click.option(
    "--format",
    type=click.Choice(["coco", "parquet"]),
    default="coco",
    show_default=True,
    help="coco.json, or instances.parquet with one row per instance (make install-batch).",
)
@click.option(
    "--overlay", is_flag=True, help="Write each photo with its masks painted on, too (not with --ray)."
)
@click.option("--score-threshold", metavar="0..1", help="Keep instances whose score is at least this.")
@click.option("--max-detections", metavar="1..300", help="Keep at most this many per photo, the best first.")
@click.option("--classes", metavar="NAMES", help="Keep only these classes: names or ids, comma separated.")
@click.option(
    "--mask-format",
    type=click.Choice(["rle", "polygon", "png", "none"]),
    help="How a mask is written [default: rle].",
)
@click.option(
    "--threads", type=COUNT, metavar="N", help="Cores of one predictor [default: all; 1 with --ray]."
)
@click.option(
    "--batch-size",
    type=COUNT,
    metavar="N",
    help="Photos per run of the network [default: 1; 8 with --ray on GPUs].",
)
@click.option(
    "--ray", metavar="ADDRESS", help="Use Ray: local (this machine alone), auto or HOST:PORT (a cluster)."
)
@click.option(
    "--shard-size", type=COUNT, default=1000, help="Photos per saved part of the answers [default: 1000]."
)
@click.option(
    "--stall-timeout",
    type=COUNT,
    default=300,
    metavar="S",
    help="Seconds after which a batch counts as stuck; with --ray, without any answer [default: 300].",
)
def predict(**values: Any) -> None:
    """Predict photos with an ARCHIVE, without a server.

    A SOURCE is a photo, a folder (with its subfolders), a glob in quotes, or a .txt file with one path per line. A
    photo that cannot be read or decoded is recorded with its error, and the others go on. Run again with the same
    DIR, the command skips what is done.
    """
    # Ray reads these when it is imported: no usage report, and lost workers are counted here, not printed in C++
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    from handler.errors import PredictError
    from handler.predict.job import Job, run

    names = ("score_threshold", "max_detections", "classes", "mask_format")
    options = {name: value for name in names if (value := values.pop(name)) is not None}
    with _interruptible():
        try:
            made = run(Job(**values, options=options))
        except ModuleNotFoundError as error:
            raise PredictError(
                f"the Python package {error.name} is missing: run `make install-batch`"
            ) from error
        except KeyboardInterrupt:
            raise click.Abort("stopped; the same command continues from here") from None
    click.echo(made)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM keeps what is done, as Ctrl-C does; a parent that ignores SIGINT (nohup) changes neither."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in former:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
