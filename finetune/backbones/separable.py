"""A leaner pyramid: depthwise-separable 3×3 convolutions, as in the detectors of MobileNetV2 (SSDLite, section 6.2).

At the finest level the pyramid's and the RPN head's dense 3×3 convolutions cost several times what MobileNetV2 itself
does. A 3×3 filter per channel followed by a 1×1 convolution needs about a ninth of the multiplications.
"""

from typing import Any

from detectron2.modeling import FPN, RPN_HEAD_REGISTRY
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import nn


class SeparableConv2d(nn.Sequential):
    """3×3 depthwise, then 1×1 convolution: (N, in_channels, H, W) to (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, mode="fan_in", nonlinearity="linear")


class SeparableFPN(FPN):
    """Detectron2's FPN with separable output convolutions. It takes FPN's arguments; ``norm`` must be ``""``."""

    def __init__(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args, **kwargs)
        if kwargs.get("norm"):
            raise ValueError(f"MODEL.FPN.NORM {kwargs['norm']!r}: a separable pyramid has no norm")
        for name, conv in list(self.named_children()):
            if name.startswith("fpn_output"):
                self.add_module(name, SeparableConv2d(conv.in_channels, conv.out_channels))
        levels = sorted(
            (name for name, _ in self.named_children() if name.startswith("fpn_output")), reverse=True
        )
        self.output_convs = [getattr(self, name) for name in levels]  # from low to high resolution, as in FPN


@RPN_HEAD_REGISTRY.register()
class SeparableRPNHead(StandardRPNHead):
    """Detectron2's RPN head with a separable convolution; choose it by ``MODEL.RPN.HEAD_NAME``."""

    conv: nn.Module

    def __init__(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args, **kwargs)
        dense: Any = self.conv
        self.conv = SeparableConv2d(dense.in_channels, dense.out_channels)
        self.conv.add_module("relu", nn.ReLU())
