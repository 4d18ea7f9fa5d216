"""VoVNet-19-eSE (VoVNetV2: Lee & Park, CenterMask, https://arxiv.org/abs/1911.06667) with a feature pyramid.

One-shot aggregation: a block's convolutions run in sequence, and their outputs are concatenated once, at its end.
Module names contain a slash (``stem_1/conv``), as in the published checkpoints.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from detectron2.layers import CNNBlockBase, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

# body → channels per stage of the 3×3 convolutions, and of the 1×1 convolution after the concatenation
_BODIES = {"V-19-eSE": ((128, 160, 192, 224), (256, 512, 768, 1024))}
_STEM_CHANNELS = (64, 64, 128)
_LAYERS_PER_BLOCK = 3
_PIXEL_SPREAD = 58.0  # standard deviation of pixel values: 255 × ImageNet's 0.227


def _conv_norm_relu(
    name: str, in_channels: int, out_channels: int, kernel: int, norm: str, stride: int = 1
) -> OrderedDict:
    """Convolution, norm, ReLU under the published names ``<name>/conv``, ``<name>/norm``, ``<name>/relu``."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    # fan-in: with frozen norms the weights alone must preserve the signal's scale
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    return OrderedDict(
        {
            f"{name}/conv": conv,
            f"{name}/norm": get_norm(norm, out_channels),
            f"{name}/relu": nn.ReLU(inplace=True),
        }
    )


class EffectiveSqueezeExcitation(nn.Module):
    """eSE: scale each channel by the hard sigmoid of one 1×1 convolution of the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        return x * F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))  # relu6(x + 3) / 6


class OneShotAggregation(CNNBlockBase):
    """Three 3×3 convolutions in sequence; input and outputs are concatenated, mixed by 1×1, weighted by eSE."""

    def __init__(self, name: str, in_channels: int, width: int, out_channels: int, norm: str) -> None:
        super().__init__(in_channels, out_channels, 1)
        self.layers = nn.ModuleList()
        channels = in_channels
        for i in range(_LAYERS_PER_BLOCK):
            self.layers.append(nn.Sequential(_conv_norm_relu(f"{name}_{i}", channels, width, 3, norm)))
            channels = width
        concatenated = in_channels + _LAYERS_PER_BLOCK * width
        self.concat = nn.Sequential(_conv_norm_relu(f"{name}_concat", concatenated, out_channels, 1, norm))
        self.ese = EffectiveSqueezeExcitation(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        return self.ese(self.concat(torch.cat(outputs, dim=1)))


class VoVNet(Backbone):
    """VoVNetV2 with one block per stage.

    Args:
        input_shape: only ``channels`` is used.
        body: a key of ``_BODIES``, which has V-19-eSE only.
        out_features: which of ``stage2`` (256 channels, stride 4), ``stage3`` (512, 8), ``stage4`` (768, 16)
            and ``stage5`` (1024, 32) to return.
        norm: a name that ``detectron2.layers.get_norm`` knows.
        freeze_at: as in Detectron2's ResNet: 0 trains everything, 1 freezes the stem, 2 also ``stage2``, …
    """

    def __init__(
        self, input_shape: ShapeSpec, body: str, out_features: list[str], norm: str, freeze_at: int = 0
    ) -> None:
        super().__init__()
        if body not in _BODIES:
            raise ValueError(f"no VoVNet body {body!r}; choose from {list(_BODIES)}")
        widths, out_channels = _BODIES[body]

        stem: OrderedDict[str, nn.Module] = OrderedDict()
        channels = input_shape.channels
        for i, (stem_channels, stride) in enumerate(zip(_STEM_CHANNELS, (2, 1, 2), strict=True), start=1):
            stem.update(_conv_norm_relu(f"stem_{i}", channels, stem_channels, 3, norm, stride))
            channels = stem_channels
        self.stem = nn.Sequential(stem)
        first = self.stem[0]
        assert isinstance(first, nn.Conv2d)
        with torch.no_grad():
            first.weight /= _PIXEL_SPREAD  # Detectron2's input is 0..255 minus the mean; bring it near 1

        self._stage_names = [f"stage{i}" for i in range(2, 2 + len(widths))]
        self._out_feature_channels = dict(zip(self._stage_names, out_channels, strict=True))
        self._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(self._stage_names)}
        if unknown := set(out_features) - set(self._stage_names):
            raise ValueError(f"VoVNet has no feature {sorted(unknown)}; choose from {self._stage_names}")
        self._out_features = list(out_features)

        for i, name in enumerate(self._stage_names):
            stage = nn.Sequential()
            if i > 0:  # the stem's output already has stage 2's stride, 4
                stage.add_module("Pooling", nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True))
            block = f"OSA{name[-1]}_1"
            stage.add_module(block, OneShotAggregation(block, channels, widths[i], out_channels[i], norm))
            self.add_module(name, stage)
            channels = out_channels[i]
        self._freeze(freeze_at)

    def _freeze(self, freeze_at: int) -> None:
        for name in ["stem", *self._stage_names][:freeze_at]:
            CNNBlockBase.freeze(getattr(self, name))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image batch (N, 3, H, W), H and W multiples of 32, to feature name → (N, C, H/stride, W/stride)."""
        outputs = {}
        x = self.stem(x)
        for name in self._stage_names:
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_vovnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:  # type: ignore[no-untyped-def]
    """VoVNet with Detectron2's FPN (p2..p5) and p6 by max pooling, from ``cfg.MODEL.VOVNET``."""
    bottom_up = VoVNet(
        input_shape,
        body=cfg.MODEL.VOVNET.CONV_BODY,
        out_features=cfg.MODEL.VOVNET.OUT_FEATURES,
        norm=cfg.MODEL.VOVNET.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
