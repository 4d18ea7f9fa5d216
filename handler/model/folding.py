"""Fold batch norms into the convolutions before them.

A norm with fixed statistics is an affine map per channel, y = (x - mean) · weight / √(var + eps) + bias, and a
convolution is linear: scaling its filters and moving its bias gives the same result with one pass over the feature map
less. Equal in exact arithmetic; in fp32 to rounding (a test holds it to 1e-5 of the largest feature).
"""

from __future__ import annotations

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

_NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d)  # the second in a model that was trained with MODEL.….NORM BN


@torch.no_grad()
def fold_norms(module: nn.Module) -> nn.Module:
    """Fold every batch norm that directly follows a convolution, in place; return ``module``.

    Two spellings are known: Detectron2's ``Conv2d(…, norm=…)``, and a norm after a convolution within one
    ``nn.Sequential`` (MobileNetV2, VoVNet), which an identity replaces so that no other module is renamed.
    """
    for child in list(module.modules()):
        if isinstance(child, nn.Conv2d) and isinstance(getattr(child, "norm", None), _NORMS):
            _fold(child, child.norm)
            child.register_module("norm", None)
        elif isinstance(child, nn.Sequential):
            for before, (name, after) in zip(
                child.children(), list(child.named_children())[1:], strict=False
            ):
                if isinstance(before, nn.Conv2d) and isinstance(after, _NORMS):
                    _fold(before, after)
                    child.add_module(name, nn.Identity())  # same name, same place
    return module


def _fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d | nn.BatchNorm2d) -> None:
    # in double: the quotient of two small variances should not lose digits that fp32 could have kept
    norm_of = {name: tensor.double() for name, tensor in norm.state_dict().items()}
    scale = norm_of["weight"] * (norm_of["running_var"] + norm.eps).rsqrt()
    bias = conv.bias.double() if conv.bias is not None else torch.zeros_like(scale)
    weight = conv.weight.double() * scale[:, None, None, None]
    shift = (bias - norm_of["running_mean"]) * scale + norm_of["bias"]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
