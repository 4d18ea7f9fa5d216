"""``python -m finetune publish``: a run folder → one small checkpoint to hand on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from finetune.checkpoints.run import read_trained
from finetune.errors import UserError
from finetune.files import write_atomically

DESCRIPTION = """\
Write a run's best weights in half precision, with its config, classes and record inside, as one .safetensors file
that `train --weights`, `evaluate` and `export` open. Serving computes in 16 bit on most machines anyway; what the
rounding costs, `evaluate` of the file says.

  python -m finetune publish runs/mobilenetv2_fpn mobilenetv2_fpn_mugs.safetensors
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``publish``."""
    parser = subparsers.add_parser(
        "publish",
        help="write a run's weights, config and record as one small checkpoint",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the folder that `finetune train` wrote")
    parser.add_argument("file", type=Path, metavar="FILE", help="what to write: a name with .safetensors")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    publish(args.run_folder, args.file)
    print(args.file)
    return 0


def publish(run: Path, file: Path) -> None:
    """Write ``file`` from the run folder ``run``.

    Raises:
        UserError: the run is not complete, the file has another suffix, or the disk is full.
    """
    import torch
    import yaml
    from safetensors.torch import save_file

    from finetune.checkpoints.reader import read_checkpoint

    if file.suffix != ".safetensors":
        raise UserError(f"{file} must end with .safetensors: name it so")
    trained = read_trained(run)
    tensors = {
        name: tensor.to(torch.float16).contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in read_checkpoint(trained.weights).items()
    }
    metadata = {
        "format": "pt",
        "config": yaml.safe_dump(trained.config, sort_keys=True),
        "classes": json.dumps(trained.record["classes"]),
        "run": json.dumps(trained.record | {"evaluation": trained.evaluation}),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda path: save_file(tensors, path, metadata))
