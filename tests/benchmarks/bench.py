"""Speed on a processor or GPU, in one command.

    python -m tests.benchmarks.bench                           # everything, with the starter and random weights
    python -m tests.benchmarks.bench --parts predictor --backbones --run RUN --data DIR   # and accuracy

Everything is compared within one run, since machines are shared and differ. The report is one small JSON, a table and a
chart per kind of processor, in ``reports/bench``. :mod:`tests.benchmarks.floor` says what a share of the floor is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from finetune.backbones import BACKBONES
from finetune.export.archive import Options, export
from tests.benchmarks import bench_http, bench_predictor, bench_training, bench_web, neighbors
from tests.benchmarks.measuring import (
    argument_parser,
    bar_chart,
    describe,
    end_on_sigterm,
    kind_of,
    machine,
    save,
    table,
)

STARTER = Path(__file__).parents[2] / "model_store/mobilenetv2_fpn_starter.safetensors"
SECONDS = {"predictor": 130, "http": 150, "web": 0, "training": 90, "neighbors": 80}
"""Part → seconds of timed calls (of each of two models); loading comes on top."""


def predictor(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """In process: backbones with random weights, and a trained model."""
    args.seconds = SECONDS["predictor"]
    rows: list[dict[str, Any]] = []
    for backbone in [*args.backbones, None]:
        inside = folder / (backbone or "trained")
        inside.mkdir()
        rows += bench_predictor.rows_of(backbone or "", args, inside, None if backbone else args.run)
    return rows


def http(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    batch_size = bench_http.CLIENTS if torch.cuda.is_available() else 1
    return bench_http.rows_of("resnet50_fpn", batch_size, SECONDS["http"])


def web(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    return bench_web.rows_of()


def training(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    return bench_training.rows_of(folder, SECONDS["training"])


def sharing(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    shutil.unpack_archive(export(args.run, Options(output=folder)), folder / "unpacked", "zip")
    return neighbors.rows_of(folder / "unpacked", SECONDS["neighbors"])


PARTS = {"predictor": predictor, "http": http, "web": web, "training": training, "neighbors": sharing}


def main() -> int:
    parser = argument_parser(__doc__, "reports/bench")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART")
    parser.add_argument(
        "--backbones",
        nargs="*",
        default=["resnet50_fpn"],
        choices=BACKBONES,
        metavar="NAME",
        help="with random weights in the predictor's part (default: resnet50_fpn)",
    )
    parser.add_argument(
        "--run", type=Path, default=STARTER, help="a run folder or checkpoint (default: the starter)"
    )
    parser.add_argument("--data", type=Path, help="measure the accuracy of each precision, and int8, on this")
    parser.add_argument("--split", default="test")
    parser.add_argument("--device", default="cpu", help="of the predictor")
    parser.add_argument(
        "--yolo", type=Path, metavar="XML", help="YOLO11n-seg for OpenVINO, to be timed beside"
    )
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch sees no GPU")
    end_on_sigterm()
    where, report, texts = machine(), {}, []
    for part in args.parts:
        print(part, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            report[part] = PARTS[part](args, Path(folder))
        texts.append(table(report[part]))
        text = "\n\n".join([describe(where), *texts])
        save(args.output, kind_of(where), {"machine": where, **report}, text)
    print(text)
    if "predictor" in report:
        chart, title = args.output / f"{kind_of(where)}.png", f"One photo at 800 pixels\n{describe(where)}"
        rows = report["predictor"]
        bar_chart(chart, rows, group="model", label="contestant", value="median_ms", title=title)
    print(f"\n{args.output / kind_of(where)}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
