"""Other projects' programs run our network: they find the same."""

from pathlib import Path

import pytest
import torch

from tests.benchmarks import floor
from tests.benchmarks.bench_predictor import default_predictor
from tests.benchmarks.rivals import torchvision_model
from tests.toy_models import photo, quiet_detectron2, write_run

SMALL = "INPUT.MIN_SIZE_TEST 160 INPUT.MAX_SIZE_TEST 266 MODEL.RPN.POST_NMS_TOPK_TEST 100"


def test_torchvision_has_our_weights(tmp_path: Path) -> None:
    """Up to the first rounding of a proposal; so the features and the RPN's logits are compared."""
    write_run(tmp_path, "resnet50_fpn", SMALL.split())
    theirs, ours = torchvision_model(tmp_path), default_predictor(tmp_path, "cpu").model
    bgr = torch.from_numpy(photo(160, 224)[:, :, ::-1].copy()).permute(2, 0, 1).float()
    with torch.no_grad(), quiet_detectron2():
        expected = ours.backbone(ours.preprocess_image([{"image": bgr}]).tensor)
        images, _ = theirs.transform([bgr / 255])
        found = theirs.backbone(images.tensors)
        logits, _ = theirs.rpn.head([found["0"]])
        expected_logits, _ = ours.proposal_generator.rpn_head([expected["p2"]])
        one, other = theirs.roi_heads.box_head, ours.roi_heads.box_head
        pooled = torch.rand(3, 256, 7, 7)
        torch.testing.assert_close(one(pooled), other(pooled), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["0"], expected["p2"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits[0], expected_logits[0], rtol=1e-3, atol=1e-3)


def test_the_floor_of_a_product_is_the_product() -> None:
    matrix = torch.rand(floor.SIDE, floor.SIDE)
    adds = floor.multiply_adds(lambda: matrix @ matrix)
    assert adds == floor.SIDE**3
    seconds = {name: [0.2, 0.4, 0.3] for name in floor.products()} | {"ours": [1.0]}
    limits = floor.floors(adds, seconds)
    assert limits["fp32"] == pytest.approx(300)
    assert list(seconds) == ["ours"]
    assert floor.share("ours torch-fp32", 600, limits) == pytest.approx(0.5)
    assert floor.share("ours openvino-int8", 600, limits) is None
    assert floor.share("Detectron2", 300, limits) == pytest.approx(1)
