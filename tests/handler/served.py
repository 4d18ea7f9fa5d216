"""An archive of the real handler around a tiny random model, laid out as by ``maskrcnn export``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.toy_models import TINY, write_unpacked_archive

REPOSITORY = Path(__file__).resolve().parents[2]

CONFIG = """
minWorkers: 1
maxWorkers: 1
batchSize: 4
maxBatchDelay: 100
deviceType: cpu
handler:
  engine: torch
  precision: fp32
  threads: 1
  max_image_bytes: 3000000
  max_image_pixels: 2000000
  max_response_bytes: 4000000
  warmup: [[96, 128]]
  options: {score_threshold: 0.05}
"""


def handler_archive(folder: Path, classes: Sequence[str] = ("balloon", "kite")) -> Path:
    """``folder/maskrcnn_mobilenetv2_fpn.mar``; it answers with a handful of nonsense instances."""
    parts = folder / "parts"
    parts.mkdir(parents=True)
    write_unpacked_archive(parts, overrides=TINY, classes=classes)
    ignored = shutil.ignore_patterns("__pycache__", "build", "predict")
    for package in ("handler", "finetune/backbones"):
        shutil.copytree(REPOSITORY / package, parts / package, ignore=ignored)
    shutil.copy(REPOSITORY / "finetune" / "__init__.py", parts / "finetune")
    (parts / "model-config.yaml").write_text(CONFIG)
    archiver = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "maskrcnn"]
    archiver += ["--version", "mobilenetv2_fpn", "--handler", str(parts / "handler" / "maskrcnn_handler.py")]
    archiver += ["--extra-files", str(parts), "--config-file", str(parts / "model-config.yaml")]
    subprocess.run([*archiver, "--export-path", str(folder)], check=True, capture_output=True)
    return (folder / "maskrcnn.mar").rename(folder / "maskrcnn_mobilenetv2_fpn.mar")
