"""MobileNetV2-FPN and VoVNet-19-FPN for Detectron2, and their config nodes.

Importing this package registers ``build_mobilenetv2_fpn_backbone`` and ``build_vovnet_fpn_backbone`` in
Detectron2's ``BACKBONE_REGISTRY``. Every model archive contains a copy of it, so it holds definitions only and imports
nothing but Detectron2.
"""

from .config import BACKBONES, add_backbone_config, backbone_of, build_config, load_config
from .mobilenetv2 import MobileNetV2, build_mobilenetv2_fpn_backbone
from .separable import SeparableFPN, SeparableRPNHead
from .vovnet import VoVNet, build_vovnet_fpn_backbone

__all__ = [
    "BACKBONES",
    "MobileNetV2",
    "SeparableFPN",
    "SeparableRPNHead",
    "VoVNet",
    "add_backbone_config",
    "backbone_of",
    "build_config",
    "build_mobilenetv2_fpn_backbone",
    "build_vovnet_fpn_backbone",
    "load_config",
]
