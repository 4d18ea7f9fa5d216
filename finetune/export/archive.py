"""Package a run as a TorchServe model archive that needs nothing but installed packages.

The archive is staged in a temporary folder beside its target, packed by torch-model-archiver, unpacked, and tried on
one picture in a process that imports only the archive's own code; then it is renamed into place. The tools of
``handler/build`` run from the source tree; neither they nor ``handler/predict`` are part of the archive.
"""

from __future__ import annotations

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

import click
import yaml
from PIL import Image

from finetune.checkpoints.run import Run
from finetune.errors import UserError
from finetune.evaluation.operating_point import read_point
from finetune.export.processes import announce, execute, run_tool
from finetune.export.served import measure_served, write_photos
from finetune.files import read_json, reason_of, sha256_of, write_json

MODEL_NAME = "maskrcnn"
ARCHIVE_FORMAT = 1
SOURCE = Path(__file__).resolve().parents[2]
NOT_SERVED = ("build", "predict", "__pycache__", "*.md", "*.yaml")
"""What a server does not need of the code's folders, and so no archive carries."""

STARTUP_TIMEOUT = 300
"""Seconds until a worker must be ready: loading, compiling and warming up take longer than TorchServe's 120 on a slow
machine."""


@dataclass(frozen=True)
class Options:
    """What the archive is to contain; one attribute per option of the command."""

    version: str | None = None  # in TorchServe; None: the name of the backbone
    output: Path = Path("model_store")
    engine: str = "openvino"
    fp32: bool = False  # serve in 32 bits, not in what the server's CPU or GPU is fastest in
    workers: int | None = None  # TorchServe's; None leaves it to the server, as does None for batch_size
    batch_size: int | None = None
    data: Path | None = None  # to measure the archive on, and to calibrate an 8-bit model with
    max_loss: float = 1.0  # points of mask AP that the archive may lose there
    overrides: Sequence[str] = ()  # KEY VALUE …: serve with a config other than that of the training


def export(path: Path, options: Options = Options()) -> Path:
    """Package a run folder or a published checkpoint; return the archive, ``OUTPUT/maskrcnn_VERSION.mar``.

    Raises:
        UserError: the run is incomplete, an option has an impossible value, or a step failed. An archive that was
            there before is then unchanged.
    """
    run = Run.open(path, options.overrides)
    if not run.classes:
        raise UserError(
            f"{path} does not name its classes (no run.json): give the run folder, or what `publish` made of it"
        )
    tuned, point = read_tuned(run), read_point(run)
    measured = {"operating_point": point and point.to_json(), "tuned": tuned}
    if tuned:
        run = Run.open(path, tuned["overrides"])
        options = replace(
            options,
            fp32=options.fp32 or tuned["precision"] == "fp32",
            workers=options.workers or tuned["workers"],
        )
        if tuned["precision"] == "int8" and not options.data:
            click.echo("int8 needs photos to calibrate with: add --data DIR", err=True)
    version = run.backbone if options.version is None else options.version
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", version):
        raise UserError(
            f"--version {version!r} is not possible: use letters, digits, '.', '_' and '-', first a letter or digit"
        )
    target = options.output / f"{MODEL_NAME}_{version}.mar"
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=options.output) as folder:
            os.replace(_build(run, version, options, measured, Path(folder)), target)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({reason_of(error)}): check the folder and the free space"
        ) from error
    return target


def read_tuned(run: Run) -> dict[str, Any] | None:
    """What ``tune`` chose for a run: ``overrides``, ``precision``, ``workers`` and how it was found.

    None without such a file; None and a sentence on stderr if it does not hold for these weights and this config.
    """
    path = run.beside("tuned.json")
    if not path.is_file():
        return None
    document = read_json(path, cure="remove it, or tune again")
    try:
        chosen, weights = document["chosen"], document["weights_sha256"]
        summary = f"{chosen['summary']} ({path}, {chosen['where']})"
    except (KeyError, TypeError):
        raise UserError(f"{path} is not complete: run `maskrcnn tune` to its end, or remove it") from None
    if run.overrides or weights != run.measured_with["weights_sha256"]:
        reason = "KEY VALUE pairs were given" if run.overrides else "it is about other weights"
        click.echo(f"{path} is left out: {reason}", err=True)
        return None
    announce(f"as tuned: {summary}")
    return chosen


def _build(run: Run, version: str, options: Options, measured: dict[str, Any], work: Path) -> Path:
    """Stage, pack and try the archive in the temporary folder ``work``; return its path."""
    staged, unpacked = work / "staged", work / "unpacked"
    card = stage(run, version, options, measured, staged)
    if options.data:
        int8 = options.engine == "openvino" and not options.fp32
        card["served"] = measure_served(run, staged, options.data, max_loss=options.max_loss, int8=int8)
        write_json(staged / "archive.json", card)
    announce("packing")
    archive = _pack(staged, version, work)
    announce("trying the archive on a picture")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(unpacked)
    picture = work / "picture.png"
    Image.radial_gradient("L").save(picture)
    photos = write_photos(work / "photos.json", [{"image_id": 1, "file_name": str(picture.resolve())}])
    what = "the trial of the archive"
    run_tool(unpacked, "predict_photos.py", unpacked, photos, work / "answer.json", what=what)
    return archive


def stage(run: Run, version: str, options: Options, measured: dict[str, Any], staged: Path) -> dict[str, Any]:
    """Write what an archive holds into the new folder ``staged``; return its card, with what was ``measured``."""
    for package in ("handler", "finetune/backbones"):
        ignore = shutil.ignore_patterns(*NOT_SERVED)
        shutil.copytree(SOURCE / package, staged / package, ignore=ignore)
    shutil.copy(SOURCE / "finetune" / "__init__.py", staged / "finetune" / "__init__.py")
    write_config(run, staged)
    _write_weights(run.weights, staged / "model.safetensors")
    _write_model_config(options, staged)
    card = {
        "format": ARCHIVE_FORMAT,
        "name": MODEL_NAME,
        "version": version,
        "backbone": run.backbone,
        "classes": run.classes,
        "weights_sha256": sha256_of(staged / "model.safetensors"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "evaluation": run.evaluation,
        "training": run.record,
        **measured,
    }
    write_json(staged / "archive.json", card)  # the tools of handler/build read it
    if options.engine == "openvino":
        announce("converting the network for OpenVINO")
        run_tool(SOURCE, "convert.py", staged, what="the conversion for OpenVINO")
    return card


def write_config(run: Run, staged: Path) -> None:
    """Write ``config.yaml``: the run's config without the ``FINETUNE`` node, which only training reads."""
    config = yaml.safe_load(run.config.dump()) if run.overrides else run.recorded_config
    config = {key: value for key, value in config.items() if key != "FINETUNE"}
    (staged / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=True), encoding="utf-8")


def _write_weights(weights: Path, target: Path) -> None:
    """Copy a checkpoint; one of another format is converted to safetensors."""
    if weights.suffix == ".safetensors":
        shutil.copyfile(weights, target)
        return
    from safetensors.torch import save_file

    from finetune.checkpoints.reader import read_checkpoint

    save_file({name: tensor.contiguous() for name, tensor in read_checkpoint(weights).items()}, target)


def _write_model_config(options: Options, staged: Path) -> None:
    """Write ``model-config.yaml``, only with what was asked for: its values override the server's settings."""
    config: dict[str, Any] = {"startupTimeout": STARTUP_TIMEOUT}
    if options.workers:
        config |= {"minWorkers": options.workers, "maxWorkers": options.workers}
    if options.batch_size:
        # a request that comes alone waits this many milliseconds for others
        config |= {"batchSize": options.batch_size, "maxBatchDelay": 2}
    if options.fp32:
        config["handler"] = {"precision": "fp32"}
    text = "# How TorchServe serves this archive; handler/README.md lists the keys and their defaults.\n"
    text += yaml.safe_dump(config, sort_keys=False)
    (staged / "model-config.yaml").write_text(text, encoding="utf-8")


def _pack(staged: Path, version: str, work: Path) -> Path:
    """Run torch-model-archiver on ``staged``; return the archive."""
    scratch, packed = work / "scratch", work / "packed"
    scratch.mkdir()
    packed.mkdir()
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", MODEL_NAME]
    command += ["--version", version, "--handler", str(staged / "handler" / "maskrcnn_handler.py")]
    command += ["--extra-files", str(staged), "--config-file", str(staged / "model-config.yaml")]
    command += ["--export-path", str(packed), "--archive-format", "zip-store"]  # weights do not compress
    # the archiver works in TMPDIR/maskrcnn and first deletes what is there, so two exports must not share it
    execute(command, "torch-model-archiver", env={**os.environ, "TMPDIR": str(scratch)})
    return packed / f"{MODEL_NAME}.mar"
