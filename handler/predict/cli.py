"""``maskrcnn predict``."""

from __future__ import annotations

import os
import signal
from typing import Any

import click

EPILOG = """\b
Examples:
  maskrcnn predict runs/mugs photos --output found --overlay
  maskrcnn predict model_store/maskrcnn_resnet50_fpn.mar photos.zip a.jpg --output found --format labelme
  maskrcnn predict runs/mugs party.mp4 --output found --overlay --fps 5
  maskrcnn predict https://masks.example.com photos --output found --format csv
  maskrcnn predict model_store/maskrcnn_resnet50_fpn.mar 's3://bucket/photos/*.jpg' --output s3://bucket/found \\
      --ray auto --format parquet --score-threshold 0.7
"""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # lost workers are counted here
    "OPENCV_LOG_LEVEL": "ERROR",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",  # what is wrong with a film is said here
}
"""What Ray and OpenCV read when they are imported."""

STOPS = (signal.SIGINT, signal.SIGTERM)
COUNT, RATE = click.IntRange(min=1), click.FloatRange(min=0, min_open=True)
FORMATS = ("coco", "csv", "parquet", "labelme", "yolo", "via", "label-studio", "cvat")


@click.command(epilog=EPILOG)
@click.argument("model")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--output", required=True, metavar="DIR", help="Write to here: a folder or an fsspec URI.")
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    default="coco",
    show_default=True,
    help="coco.json; counts and areas per photo as counts.csv; a row per instance as instances.parquet (make "
    "install-batch); or a folder with the photos, to be corrected in an annotation tool.",
)
@click.option("--overlay", is_flag=True, help="Write each photo and film with its masks painted on, too.")
@click.option("--fps", type=RATE, metavar="N", help="Frames per second of a film.  [default: all]")
@click.option("--score-threshold", metavar="0..1", help="Keep instances whose score is at least this.")
@click.option("--max-detections", metavar="1..3000", help="Keep at most this many per photo, the best first.")
@click.option("--classes", metavar="NAMES", help="Keep only these classes: names or ids, comma separated.")
@click.option(
    "--tiles", metavar="128..4096", help="Look in tiles of so many pixels, too, to find small objects."
)
@click.option("--token", envvar="MASKRCNN_TOKEN", show_envvar=True, help="For a MODEL that is an address.")
@click.option("--threads", type=COUNT, help="Cores of one predictor.  [default: all; 1 with --ray]")
@click.option(
    "--batch-size", type=COUNT, help="Photos per run of the network.  [default: 1; 8 with --ray on GPUs]"
)
@click.option(
    "--ray", metavar="ADDRESS", help="Use Ray: local (this machine alone), auto or HOST:PORT (a cluster)."
)
@click.option(
    "--shard-size", type=COUNT, default=1000, show_default=True, help="Photos per saved part of the answers."
)
@click.option(
    "--stall-timeout",
    type=COUNT,
    default=300,
    show_default=True,
    help="Seconds after which a batch counts as stuck; with --ray, without any answer.",
)
@click.pass_obj
def predict(rooms: Any, **values: Any) -> None:
    """Predict photos, folders and films, without a server.

    MODEL is an archive, a run folder, a published checkpoint, or the address of a running `maskrcnn web`. A SOURCE is a
    photo, a film, a folder (with its subfolders), a zip, a glob in quotes, or a .txt file with one path per line.

    A photo that cannot be read or decoded is recorded with its error, and the others go on. Run again with the same
    DIR, the command skips what is done; another --format takes no new prediction.
    """
    remote = values["model"].startswith(("http://", "https://"))
    if remote and any(values[name] for name in ("ray", "threads", "batch_size")):
        raise click.UsageError(
            "--ray, --threads and --batch-size are for a MODEL on this machine: leave them out"
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from handler.errors import PredictError
    from handler.predict.job import Job
    from handler.predict.run import run

    names = ("score_threshold", "max_detections", "classes", "tiles")
    options = {name: value for name in names if (value := values.pop(name)) is not None}
    # SIGTERM keeps what is done, as Ctrl-C does, also where a parent ignores SIGINT (nohup)
    former = {number: signal.signal(number, signal.default_int_handler) for number in STOPS}
    try:
        made = run(Job(**values, options=options), rooms)
    except ModuleNotFoundError as error:
        raise PredictError(f"the Python package {error.name} is missing: run `make install-batch`") from error
    except KeyboardInterrupt:
        raise click.Abort("stopped; the same command continues from here") from None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    click.echo(made)
