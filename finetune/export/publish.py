"""Publish a run: its best weights, config and record as one small checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from finetune.checkpoints.run import Run
from finetune.errors import UserError
from finetune.evaluation.operating_point import read_point
from finetune.files import write_atomically


def publish(path: Path, file: Path) -> None:
    """Write the run at ``path`` to ``file``: fp16 weights; config, classes, record and evaluation as metadata.

    Raises:
        UserError: the run is incomplete, the name does not end with .safetensors, or the disk is full.
    """
    import torch
    import yaml
    from safetensors.torch import save_file

    from finetune.checkpoints.reader import read_checkpoint

    if file.suffix != ".safetensors":
        raise UserError(f"{file} must end with .safetensors: rename it")
    run = Run.open(path)
    if not run.classes:
        raise UserError(f"{path} does not name its classes (no run.json): give the run folder")
    point = read_point(run)
    tensors = {
        name: (tensor.to(torch.float16) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in read_checkpoint(run.weights).items()
    }
    metadata = {
        "format": "pt",
        "config": yaml.safe_dump(run.recorded_config, sort_keys=True),
        "classes": json.dumps(run.classes),
        "run": json.dumps(
            run.record | {"evaluation": run.evaluation, "operating_point": point and point.to_json()}
        ),
    }
    write_atomically(file, lambda temporary: save_file(tensors, temporary, metadata))
