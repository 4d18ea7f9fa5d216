"""Open what training leaves: a run folder, or a checkpoint that carries its config."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_model

from finetune.backbones import load_config
from finetune.checkpoints.initial_weights import load_weights
from finetune.checkpoints.reader import read_metadata
from finetune.checkpoints.run_folder import BEST
from finetune.configs.keys import override
from finetune.errors import UserError

_BY_BUILDER = {
    "build_mobilenetv2_fpn_backbone": "mobilenetv2_fpn",
    "build_vovnet_fpn_backbone": "vovnet19_fpn",
}


@dataclass(frozen=True)
class Run:
    """A trained model on disk."""

    name: str
    weights: Path
    config: CfgNode
    backbone: str
    classes: list[str] | None  # None if nothing beside the checkpoint tells
    record: dict[str, Any]  # run.json, or {}


def open_run(path: Path, overrides: Sequence[str] = ()) -> Run:
    """Open a run folder, or a ``.safetensors`` / ``.pth`` / ``.pkl`` file with a config.

    The config is ``config.yaml`` in the folder; for a checkpoint, the key ``config`` of its safetensors
    metadata (beside it, ``classes`` and ``run`` as JSON), else a ``config.yaml`` next to the file.

    Args:
        overrides: ``KEY VALUE …`` on top of the config. The device is the GPU if there is one.

    Raises:
        UserError: nothing there, no weights yet, no config or a broken one.
    """
    if path.is_dir():
        folder, weights, metadata = path, path / BEST, {}
        if not weights.is_file():
            raise UserError(f"{path} holds no {BEST}: train until the first evaluation, or name a checkpoint")
    elif path.is_file():
        folder, weights, metadata = path.parent, path, read_metadata(path)
    else:
        raise UserError(
            f"there is no run and no checkpoint at {path}: give a run folder or a .safetensors file"
        )
    if "config" not in metadata and not (folder / "config.yaml").is_file():
        raise UserError(f"{path} comes without a config: put its run's config.yaml beside it")
    try:
        if "config" in metadata:
            with TemporaryDirectory() as temporary:
                file = Path(temporary) / "config.yaml"
                file.write_text(metadata["config"])
                config = load_config(file)
        else:
            config = load_config(folder / "config.yaml")
        record = json.loads(metadata.get("run") or _text(folder / "run.json") or "{}")
        classes = json.loads(metadata["classes"]) if "classes" in metadata else record.get("classes")
    except (OSError, ValueError, KeyError, AssertionError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the config or run.json of {path} cannot be read ({reason}): restore it") from None
    config.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    override(config, overrides)
    name = path.resolve().name if path.is_dir() else path.stem
    return Run(name, weights, config, backbone_of(config), classes, record)


def load_model(run: Run) -> GeneralizedRCNN:
    """Build the run's model with its weights, in evaluation mode.

    Raises:
        UserError: the checkpoint does not fill the model completely.
    """
    model = build_model(run.config).eval()
    report = load_weights(model, str(run.weights), run.backbone)
    if unfilled := report.missing + report.replaced:
        raise UserError(
            f"{run.weights} does not fit its config: {len(unfilled)} tensors such as {unfilled[0]} are"
            " missing or of another shape; use the config.yaml that it was trained with"
        )
    return model


def backbone_of(config: CfgNode) -> str:
    """Our name of the config's backbone."""
    if config.MODEL.BACKBONE.NAME == "build_resnet_fpn_backbone":
        return f"resnet{config.MODEL.RESNETS.DEPTH}_fpn"
    if config.MODEL.BACKBONE.NAME in _BY_BUILDER:
        return _BY_BUILDER[config.MODEL.BACKBONE.NAME]
    raise UserError(
        f"{config.MODEL.BACKBONE.NAME} builds none of our backbones: use a config of this project"
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
