"""The config nodes of our two backbones, and the reader of a saved config."""

from pathlib import Path

from detectron2.config import CfgNode, get_cfg

BACKBONES = ("resnet50_fpn", "resnet101_fpn", "mobilenetv2_fpn", "vovnet19_fpn")


def add_backbone_config(cfg: CfgNode) -> None:
    """Add ``MODEL.MOBILENETV2`` and ``MODEL.VOVNET`` with their defaults to a Detectron2 config, in place."""
    cfg.MODEL.MOBILENETV2 = CfgNode()
    # which feature maps leave the backbone: res2..res5, strides 4, 8, 16, 32
    cfg.MODEL.MOBILENETV2.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # any name of detectron2.layers.get_norm; batches of a few photos are too small for batch statistics
    cfg.MODEL.MOBILENETV2.NORM = "FrozenBN"

    cfg.MODEL.VOVNET = CfgNode()
    cfg.MODEL.VOVNET.CONV_BODY = "V-19-eSE"
    cfg.MODEL.VOVNET.OUT_FEATURES = ["stage2", "stage3", "stage4", "stage5"]
    cfg.MODEL.VOVNET.NORM = "FrozenBN"


def load_config(path: str | Path) -> CfgNode:
    """Read the ``config.yaml`` of a run or an archive: Detectron2's defaults, our nodes, the file on top.

    The ``FINETUNE`` node of a training run is left out: nothing that runs a model needs it. The YAML is read
    safely, so a config from a stranger cannot run code.

    Raises:
        OSError: the file cannot be read.
        yaml.YAMLError, ValueError, KeyError: it is not a config of this Detectron2.
    """
    cfg = get_cfg()
    add_backbone_config(cfg)
    values = CfgNode.load_yaml_with_base(str(path), allow_unsafe=False)
    values.pop("FINETUNE", None)
    cfg.merge_from_other_cfg(CfgNode(values))
    return cfg
