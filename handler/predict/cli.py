"""The command line of ``python -m handler.predict``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from handler.predict import BatchError

DESCRIPTION = """\
Predict a whole collection of photos with an archive, on this machine or on a Ray cluster.

  python -m handler.predict model_store/maskrcnn_resnet50_fpn.mar photos results
  python -m handler.predict model_store/maskrcnn_resnet50_fpn.mar 's3://bucket/photos/*.jpg' s3://bucket/results \\
      --address auto --score-threshold 0.7

Parquet has one row an instance; a photo without any has one row with an empty `instance`, a photo that cannot be
answered one row with its `error_code` and `error_message`. Started again with the same OUTPUT, it goes on where it
stopped.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m handler.predict",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("archive", type=Path, metavar="ARCHIVE", help="a .mar made by `python -m finetune export`")
    about = "a folder, a glob in quotes, a .txt file with a path a line, or any of these as an fsspec URI"
    option("input", metavar="INPUT", help=about)
    option(
        "output", metavar="OUTPUT", help="a folder (parquet) or a .json file (coco); a path or an fsspec URI"
    )
    option("--output-format", choices=["parquet", "coco"], default="parquet", help="(default: %(default)s)")
    option(
        "--address",
        metavar="RAY",
        help="a running Ray cluster that this machine is part of: auto or HOST:PORT (default: this machine alone)",
    )
    option("--score-threshold", metavar="0..1", help="keep instances whose score is at least this")
    option("--max-detections", metavar="1..300", help="keep at most this many a photo, the best first")
    option("--classes", metavar="NAMES", help="keep only these: names or ids, comma separated")
    option("--mask-format", choices=["rle", "polygon", "png", "none"], help="how a mask is written")
    about = "cores of one predictor (default: 1, which gives the most photos a second)"
    option("--threads", type=_count, default=1, metavar="N", help=about)
    about = "photos that one predictor runs at once (default: 1 on processors, 8 on GPUs)"
    option("--batch-size", type=_count, metavar="N", help=about)
    option(
        "--shard-size", type=_count, default=1000, metavar="N", help="photos a shard (default: %(default)s)"
    )
    about = "seconds without an answer after which what is missing is given to the nodes that still live; a predictor "
    about += "gets a quarter of it for a photo (%(default)s)"
    option("--stall-timeout", type=_count, default=300, metavar="S", help=about)
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def main(argv: list[str] | None = None) -> int:
    """Run the job and return the exit status; the last line printed is OUTPUT."""
    args = build_parser().parse_args(argv)
    former = signal.signal(signal.SIGTERM, _interrupt)
    # Ray reads these when it is imported. Nothing is reported to anybody, and no dashboard is started.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # lost workers are counted here, not told in C++
    try:
        from handler.predict.cluster import run

        run(args)
    except BatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        cure = "run `make install-batch`, and use .venv/bin/python"
        print(f"error: the Python package {error.name} is missing: {cure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, former)
    print(args.output)
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM saves what there is, as Ctrl-C does."""
    raise KeyboardInterrupt
