"""MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381) with a feature pyramid.

Module names are those of torchvision's published ``mobilenet_v2`` weights (``features.N.conv.…``), which
published detectors use as well; the last 1×1 convolution, part of the classifier, is left out.
"""

import torch
from detectron2.layers import CNNBlockBase, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from .separable import SeparableFPN

# Table 2 of the paper: expansion factor t, output channels c, repeats n, stride s of the first repeat
_INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# index of each stage's last block
_LAST_BLOCK = {"res2": 3, "res3": 6, "res4": 13, "res5": 17}


def _conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    norm: str,
    *,
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> list[nn.Module]:
    """Convolution, norm and (unless it is a linear projection) ReLU6, ready for an ``nn.Sequential``."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    # Fan-in, not the usual fan-out: with frozen norms the weights alone must preserve the signal's scale, and the
    # fan-out of a depthwise convolution, which is counted over all groups, would shrink it by √channels.
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu" if relu else "linear")
    layers = [conv, get_norm(norm, out_channels)]
    return [*layers, nn.ReLU6(inplace=True)] if relu else layers


class Stem(nn.Sequential):
    """3×3 convolution of stride 2, norm, ReLU6: (N, 3, H, W) to (N, 32, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__(*_conv_norm(in_channels, out_channels, 3, norm, stride=2))


class InvertedResidual(CNNBlockBase):
    """Expand by 1×1, filter by 3×3 depthwise, project linearly by 1×1; add the input if the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int, norm: str) -> None:
        super().__init__(in_channels, out_channels, stride)
        width = in_channels * expansion
        layers = _conv_norm(in_channels, width, 1, norm) if expansion > 1 else []
        layers += _conv_norm(width, width, 3, norm, stride=stride, groups=width)
        layers += _conv_norm(width, out_channels, 1, norm, relu=False)
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        if self.stride == 1 and self.in_channels == self.out_channels:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(Backbone):
    """MobileNetV2 of width 1.0 up to its last inverted residual.

    Args:
        input_shape: only ``channels`` is used.
        out_features: which of ``res2`` (24 channels, stride 4), ``res3`` (32, 8), ``res4`` (96, 16) and
            ``res5`` (320, 32) to return.
        norm: a name that ``detectron2.layers.get_norm`` knows.
        freeze_at: as in Detectron2's ResNet: 0 trains everything, 1 freezes the stem, 2 the stem and ``res2``, …
    """

    def __init__(
        self, input_shape: ShapeSpec, out_features: list[str], norm: str, freeze_at: int = 0
    ) -> None:
        super().__init__()
        if unknown := set(out_features) - set(_LAST_BLOCK):
            raise ValueError(f"MobileNetV2 has no feature {sorted(unknown)}; choose from {list(_LAST_BLOCK)}")
        channels = 32
        blocks: list[nn.Module] = [Stem(input_shape.channels, channels, norm)]
        for expansion, out_channels, repeats, first_stride in _INVERTED_RESIDUALS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(InvertedResidual(channels, out_channels, stride, expansion, norm))
                channels = out_channels
        self.features = nn.ModuleList(blocks)

        self._out_features = list(out_features)
        self._out_feature_channels = {name: self.features[i].out_channels for name, i in _LAST_BLOCK.items()}
        self._out_feature_strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
        self._freeze(freeze_at)

    def _freeze(self, freeze_at: int) -> None:
        ends = [1, *_LAST_BLOCK.values()]  # block 1 has the stem's stride and is frozen with it
        if freeze_at > 0:
            for block in self.features[: ends[min(freeze_at, len(ends)) - 1] + 1]:
                CNNBlockBase.freeze(block)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image batch (N, 3, H, W), H and W multiples of 32, to feature name → (N, C, H/stride, W/stride)."""
        outputs = {}
        name_of_block = {i: name for name, i in _LAST_BLOCK.items() if name in self._out_features}
        for i, block in enumerate(self.features):
            x = block(x)
            if i in name_of_block:
                outputs[name_of_block[i]] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_mobilenetv2_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:  # type: ignore[no-untyped-def]
    """MobileNetV2 with an FPN (p2..p5) and p6 by max pooling, from ``cfg.MODEL.MOBILENETV2``."""
    bottom_up = MobileNetV2(
        input_shape,
        out_features=cfg.MODEL.MOBILENETV2.OUT_FEATURES,
        norm=cfg.MODEL.MOBILENETV2.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
    pyramid = SeparableFPN if cfg.MODEL.MOBILENETV2.SEPARABLE_FPN else FPN
    return pyramid(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
