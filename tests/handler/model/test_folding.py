import copy

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model

from finetune.configs.keys import get_config
from handler.model.folding import fold_norms

NORMS = (FrozenBatchNorm2d, torch.nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("backbone", "overrides"),
    [
        ("resnet50_fpn", []),
        ("mobilenetv2_fpn", []),
        ("vovnet19_fpn", []),
        ("vovnet19_fpn", ["MODEL.VOVNET.NORM", "BN"]),
    ],
)
def test_folding_removes_every_norm_and_keeps_the_features(backbone: str, overrides: list[str]) -> None:
    cfg = get_config(
        backbone,
        ["MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "8", *overrides],
    )
    torch.manual_seed(0)
    plain = build_model(cfg).backbone.eval()
    with torch.no_grad():
        for norm in plain.modules():
            if isinstance(norm, NORMS):
                norm.running_mean.uniform_(-0.3, 0.3)
                norm.running_var.uniform_(0.5, 4)
                norm.weight.uniform_(0.5, 1.2)
                norm.bias.uniform_(-0.3, 0.3)
    folded = fold_norms(copy.deepcopy(plain))

    assert not any(isinstance(module, NORMS) for module in folded.modules())
    with torch.inference_mode():
        images = torch.rand(1, 3, 64, 96) * 255 - 110
        expected, features = plain(images), folded(images)
    for name, feature in expected.items():
        assert feature.std() > 0
        torch.testing.assert_close(features[name], feature, rtol=0, atol=1e-5 * feature.abs().max().item())


def test_a_norm_that_follows_no_convolution_is_left_alone() -> None:
    module = torch.nn.Sequential(torch.nn.ReLU(), FrozenBatchNorm2d(3))
    assert isinstance(fold_norms(module)[1], FrozenBatchNorm2d)
