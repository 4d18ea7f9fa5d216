"""``python -m finetune export``: a run folder → a TorchServe archive that needs nothing but pip packages.

Everything is staged in a temporary folder beside the target, packed by torch-model-archiver, unpacked again
and tried on one picture in a process that sees only the archive and the installed packages; only then is the
archive renamed into place. What runs the model (``handler``) is copied and started here, never imported.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from finetune.checkpoints.run import Trained, read_trained
from finetune.errors import UserError
from finetune.export.archived import execute, run_archived, say
from finetune.export.int8 import add_int8
from finetune.files import sha256_of, write_json

MODEL_NAME = "maskrcnn"
ARCHIVE_FORMAT = 1
SOURCE = Path(__file__).resolve().parents[2]

DESCRIPTION = """\
Package a trained run as a TorchServe model archive, try it once, and put it into the model store.

  python -m finetune export runs/resnet50_fpn
  python -m finetune export runs/resnet50_fpn_more_data --version resnet50_fpn.2
  python -m finetune export runs/resnet50_fpn --int8 --calibration data/balloon --precision int8
  python -m finetune export runs/resnet50_fpn INPUT.MIN_SIZE_TEST 480 MODEL.RPN.POST_NMS_TOPK_TEST 300
"""

MODEL_CONFIG = """\
# How TorchServe serves this archive. Values here are the defaults; the management API can change the workers.
minWorkers: {workers}
maxWorkers: {workers}
batchSize: {batch_size}        # a processor gains nothing from batches; on a GPU try 8
maxBatchDelay: 20     # milliseconds to wait for a batch to fill
responseTimeout: 120  # seconds
startupTimeout: 300   # seconds: loading, compiling and warming up on a slow machine
handler:
  precision: {precision}     # auto | fp32 | bf16 | fp16, and int8 if the archive was exported with it
  engine: auto        # auto | torch | openvino: auto is OpenVINO on a processor if the archive has it
  threads: null       # cores of one worker; null shares the machine's among its workers
  max_image_bytes: 20971520   # larger files are refused with 413
  max_image_pixels: 25000000  # larger pictures are refused with 422, before they are decoded
  warmup: [[768, 1024]]       # [height, width] of pictures to run at load, for the first visitor
"""


@dataclass(frozen=True)
class Options:
    """What the archive shall carry; one attribute per flag of the command."""

    version: str | None = None
    output: Path = Path("model_store")
    engine: str = "openvino"
    precision: str = "auto"
    workers: int = 1
    batch_size: int = 1
    calibration: Path | None = None  # a data set: carry an int8 model as well, calibrated on its val split
    overrides: Sequence[str] = ()  # KEY VALUE …: serve with another config than was trained with


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``export``."""
    parser = subparsers.add_parser(
        "export",
        help="package a run as a TorchServe model archive (.mar)",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="a run folder, or a published checkpoint"
    )
    parser.add_argument(
        "--version", help="the archive's version in TorchServe (default: the backbone's name)"
    )
    parser.add_argument(
        "--output", type=Path, default=Options.output, metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--engine",
        choices=("openvino", "torch"),
        default=Options.engine,
        help="openvino (default) adds the network for OpenVINO, faster on processors; torch is smaller",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
        default=Options.precision,
        help="what to serve in; auto (default) chooses by the processor or GPU when the server starts",
    )
    parser.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="TorchServe workers (default: 1)"
    )
    parser.add_argument(
        "--batch-size",
        type=_count,
        default=1,
        metavar="N",
        help="requests put together; for GPUs (default: 1)",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="carry an 8-bit model as well (needs --calibration; its loss of AP is measured and recorded)",
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="DATA", help="a data set; its val split calibrates"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY VALUE",
        help="config keys to serve with, such as INPUT.MIN_SIZE_TEST 480; the evaluation, made without, is left out",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.int8 != (args.calibration is not None):
        raise UserError("--int8 and --calibration DATA go together: give both, or neither")
    if args.precision == "int8" and not args.int8:
        raise UserError("--precision int8 needs an 8-bit model in the archive: add --int8 --calibration DATA")
    if args.int8 and args.engine != "openvino":
        raise UserError("--int8 is for engine openvino: leave --engine torch out")
    options = Options(
        version=args.version,
        output=args.output,
        engine=args.engine,
        precision=args.precision,
        workers=args.workers,
        batch_size=args.batch_size,
        calibration=args.calibration,
        overrides=args.overrides,
    )
    print(export(args.run_folder, options))
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def export(run: Path, options: Options = Options()) -> Path:
    """Package a run folder or a published checkpoint; return the path of the archive, ``OUTPUT/maskrcnn_VERSION.mar``.

    Raises:
        UserError: the run is not complete, a value is not possible, or the archive fails its trial. An
            archive that was there before is then untouched.
    """
    trained = _overridden(read_trained(run), options.overrides)
    version = trained.record["backbone"] if options.version is None else options.version
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", version):
        raise UserError(
            f"--version {version!r} may hold letters, digits, '.', '_' and '-' only, first a letter or digit"
        )
    target = options.output / f"{MODEL_NAME}_{version}.mar"
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=options.output) as folder:
            work = Path(folder)
            staged = work / "staged"
            card = _stage(trained, version, options, staged)
            if options.engine == "openvino":
                say("converting the network for OpenVINO")
                run_archived(staged, "handler.build.convert", staged, what="the conversion for OpenVINO")
            if options.calibration:
                card["int8"] = add_int8(staged, options.calibration, work)
            write_json(staged / "archive.json", card)
            say("packing")
            archive = _pack(staged, version, work)
            say("trying the archive on a picture")
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(work / "unpacked")
            run_archived(
                work / "unpacked",
                "handler.build.selftest",
                work / "unpacked",
                what="the trial of the archive",
            )
            os.replace(archive, target)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}): see to the folder and its disk"
        ) from error
    return target


def _overridden(trained: Trained, overrides: Sequence[str]) -> Trained:
    """With another config, and without the evaluation that was made before."""
    if not overrides:
        return trained
    from detectron2.config import CfgNode

    from finetune.configs.keys import override

    config = CfgNode(trained.config)
    override(config, overrides)
    return replace(trained, config=yaml.safe_load(config.dump()), evaluation=None)


def _stage(trained: Trained, version: str, options: Options, staged: Path) -> dict[str, Any]:
    """Fill ``staged`` with all of the archive but what is computed; return the card."""
    for package in ("handler", "finetune/backbones"):
        shutil.copytree(SOURCE / package, staged / package, ignore=_all_but_python)
    shutil.copy(SOURCE / "finetune/__init__.py", staged / "finetune/__init__.py")
    served = {key: value for key, value in trained.config.items() if key != "FINETUNE"}  # training's alone
    (staged / "config.yaml").write_text(yaml.safe_dump(served, sort_keys=True), encoding="utf-8")
    weights = staged / "model.safetensors"
    shutil.copyfile(trained.weights, weights)
    card = {
        "format": ARCHIVE_FORMAT,
        "name": MODEL_NAME,
        "version": version,
        "backbone": trained.record["backbone"],
        "classes": trained.record["classes"],
        "weights_sha256": sha256_of(weights),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "evaluation": trained.evaluation,
        "training": trained.record,
    }
    write_json(staged / "archive.json", card)
    config = MODEL_CONFIG.format(
        workers=options.workers, batch_size=options.batch_size, precision=options.precision
    )
    (staged / "model-config.yaml").write_text(config, encoding="utf-8")
    return card


def _all_but_python(folder: str, names: list[str]) -> list[str]:
    return [n for n in names if n == "__pycache__" or not (n.endswith(".py") or (Path(folder) / n).is_dir())]


def _pack(staged: Path, version: str, work: Path) -> Path:
    """Run torch-model-archiver on ``staged``; return the archive."""
    scratch, packed = work / "scratch", work / "packed"
    scratch.mkdir()
    packed.mkdir()
    entry = staged / "handler" / "maskrcnn_handler.py"
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", MODEL_NAME]
    command += ["--version", version, "--handler", str(entry), "--extra-files", str(staged)]
    command += ["--config-file", str(staged / "model-config.yaml"), "--export-path", str(packed)]
    command += [
        "--archive-format",
        "zip-store",
    ]  # weights do not compress: packing takes a second, not twenty
    # it assembles in TMPDIR/maskrcnn and deletes what it finds there: two exports at once must not meet
    execute(command, "torch-model-archiver", env={**os.environ, "TMPDIR": str(scratch)})
    return packed / f"{MODEL_NAME}.mar"
