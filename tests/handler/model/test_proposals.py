from pathlib import Path

import pytest
import torch
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from torch import nn
from torchvision.ops import nms

from handler.model.engines import TrunkOutput
from handler.model.nms import survivors
from handler.model.proposals import ProposalGenerator
from tests.toy_models import quiet_detectron2

SIZES = [(96, 128), (90, 120)]
STRIDES = (4, 8, 16, 32, 64)


def trunk_output(spread: float) -> TrunkOutput:
    """Random outputs for two images; a few boxes are not finite, as those of a broken photo."""
    torch.manual_seed(0)
    shapes = [(2, 96 // stride + 1, 128 // stride + 1) for stride in STRIDES]
    logits = [torch.randn(n, 3, h, w).contiguous(memory_format=torch.channels_last) for n, h, w in shapes]
    deltas = [spread * torch.randn(n, 12, h, w) for n, h, w in shapes]
    logits[0][0, 0, 0, 0] = torch.inf
    deltas[1][0, :, 2] = torch.nan
    return TrunkOutput([], logits, deltas)


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("spread", [0.0, 0.3])
@pytest.mark.parametrize(("before", "after"), [(1000, 100), (1000, 10), (150, 1000)])
def test_equal_detectron2s(
    toy: tuple[Path, nn.Module],
    monkeypatch: pytest.MonkeyPatch,
    on_gpu: bool,
    spread: float,
    before: int,
    after: int,
) -> None:
    rpn, trunk = toy[1].proposal_generator, trunk_output(spread)
    monkeypatch.setattr(rpn, "pre_nms_topk", {False: before})
    monkeypatch.setattr(rpn, "post_nms_topk", {False: after})
    with torch.no_grad(), quiet_detectron2():
        anchors = rpn.anchor_generator(trunk.logits)
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level in trunk.logits]
        deltas = [level.permute(0, 2, 3, 1).reshape(2, -1, 4) for level in trunk.deltas]
        decoded = rpn._decode_proposals(anchors, deltas)
        expected = find_top_rpn_proposals(
            decoded, logits, SIZES, rpn.nms_thresh, before, after, rpn.min_box_size, training=False
        )
        limits = torch.tensor([(w, h, w, h) for h, w in SIZES], dtype=torch.float32)
        rois = ProposalGenerator(rpn, on_gpu=on_gpu)(trunk, limits)
    assert not on_gpu or len(rois) == 2 * int((rois[:, 0] == 1).sum()), "as many rows for each image"
    for image, instances in enumerate(expected):
        found = rois[rois[:, 0] == image, 1:]
        torch.testing.assert_close(found[: len(instances)], instances.proposal_boxes.tensor)
        assert not found[len(instances) :].any(), "rows to fill up, which a CPU has none of"
        assert on_gpu or len(found) == len(instances)


def test_survivors_are_those_of_the_greedy_algorithm() -> None:
    torch.manual_seed(0)
    corner, side = torch.rand(3, 200, 2) * 40, torch.rand(3, 200, 2) * 30 + 5
    boxes = torch.cat([corner, corner + side], dim=2)
    # a chain longer than the rounds between two looks: each overlaps the next enough, and only the next
    start = torch.arange(200.0) * 2
    boxes[0] = torch.stack([start, torch.zeros(200), start + 10, torch.ones(200)], dim=1)
    stay = survivors(boxes, 0.6)
    for group, mine in zip(boxes, stay, strict=True):
        assert mine.nonzero().flatten().tolist() == nms(group, -torch.arange(200.0), 0.6).tolist()
    assert stay[0].tolist() == [True, False] * 100
