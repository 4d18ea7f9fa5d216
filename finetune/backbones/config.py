"""The names and config nodes of our backbones, and the reader of a saved config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

BACKBONES: dict[str, tuple[str, int | None]] = {
    "resnet50_fpn": ("build_resnet_fpn_backbone", 50),
    "resnet101_fpn": ("build_resnet_fpn_backbone", 101),
    "mobilenetv2_fpn": ("build_mobilenetv2_fpn_backbone", None),
    "vovnet19_fpn": ("build_vovnet_fpn_backbone", None),
}
"""Our names → the builder in Detectron2's registry and, for ResNets, ``MODEL.RESNETS.DEPTH``."""


def backbone_of(config: Mapping[str, Any]) -> str:
    """Our name of the backbone of a config: a ``CfgNode``, or nested dicts.

    Raises:
        KeyError: it is none of ours.
    """
    builder, depth = config["MODEL"]["BACKBONE"]["NAME"], config["MODEL"].get("RESNETS", {}).get("DEPTH")
    for name, (known_builder, known_depth) in BACKBONES.items():
        if builder == known_builder and known_depth in (None, depth):
            return name
    raise KeyError(builder)


def add_backbone_config(cfg: CfgNode) -> None:
    """Add ``MODEL.MOBILENETV2`` and ``MODEL.VOVNET`` with their defaults to a Detectron2 config, in place."""
    cfg.MODEL.MOBILENETV2 = CfgNode()
    # the feature maps to return, of res2..res5 (strides 4, 8, 16, 32)
    cfg.MODEL.MOBILENETV2.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # a name that detectron2.layers.get_norm knows; frozen, because batches of a few photos have poor statistics
    cfg.MODEL.MOBILENETV2.NORM = "FrozenBN"
    # depthwise-separable 3×3 convolutions in the pyramid; MODEL.RPN.HEAD_NAME SeparableRPNHead does it for the RPN
    cfg.MODEL.MOBILENETV2.SEPARABLE_FPN = False

    cfg.MODEL.VOVNET = CfgNode()
    cfg.MODEL.VOVNET.CONV_BODY = "V-19-eSE"
    cfg.MODEL.VOVNET.OUT_FEATURES = ["stage2", "stage3", "stage4", "stage5"]
    cfg.MODEL.VOVNET.NORM = "FrozenBN"


def build_config(values: Mapping[str, Any]) -> CfgNode:
    """Build the config to run a model with: Detectron2's defaults, our nodes, then ``values``.

    The ``FINETUNE`` node of a training run is left out, since nothing that runs a model needs it.

    Raises:
        ValueError, KeyError: ``values`` is not a config of this Detectron2.
    """
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.merge_from_other_cfg(CfgNode({key: value for key, value in values.items() if key != "FINETUNE"}))
    return cfg


def load_config(path: str | Path) -> CfgNode:
    """Read the ``config.yaml`` of a run or an archive; see :func:`build_config`.

    The YAML is read safely: an untrusted config cannot run code.

    Raises:
        OSError: the file cannot be read.
        yaml.YAMLError, ValueError, KeyError: it is not a config of this Detectron2.
    """
    return build_config(CfgNode.load_yaml_with_base(str(path), allow_unsafe=False))
