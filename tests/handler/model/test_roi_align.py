import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from handler.model.roi_align import RoiAlign
from tests.toy_models import quiet_detectron2

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def _boxes(count: int, width: float, height: float, seed: int) -> Boxes:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    # 1.6 to 245 pixels, any aspect ratio
    side = torch.exp(torch.rand(count, 2, generator=generator) * 5 + 0.5)
    boxes = Boxes(torch.cat([centre - side / 2, centre + side / 2], dim=1))
    boxes.clip((int(height), int(width)))
    return boxes


def pool(pooler: ROIPooler, features: list[torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
    align = RoiAlign(pooler, features[0].dtype)
    rois = [torch.nn.functional.pad(each.tensor, (1, 0), value=i) for i, each in enumerate(boxes)]
    pooled, where = align(align.prepare(features), torch.cat(rois))
    return pooled[where].permute(0, 3, 1, 2)


def _features(images: int, width: int, height: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(images, 24, int(height * s), int(width * s)) for s in SCALES]
    return [torch.randn(shape).contiguous(memory_format=torch.channels_last) for shape in shapes]


@pytest.mark.parametrize("size", [7, 14])
def test_equals_detectron2s_pooler(size: int) -> None:
    pooler = ROIPooler(size, SCALES, sampling_ratio=0, pooler_type="ROIAlignV2")
    features = _features(2, 320, 256)
    boxes = [_boxes(150, 320, 256, seed=1), _boxes(90, 320, 256, seed=2)]
    with quiet_detectron2():
        expected = pooler([f.contiguous() for f in features], boxes)
    torch.testing.assert_close(pool(pooler, features, boxes), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 320, 256),  # the whole image
        (319.5, 255.5, 320, 256),  # its last corner
        (-40, -40, 10, 10),  # samples more than a cell outside count as nothing
        (10, 10, 10, 30),  # no width, no samples
        (0, 100, 320, 101),  # long and thin: many samples across
    ],
)
def test_edges_equal_detectron2s_pooler(box: tuple[float, ...]) -> None:
    pooler = ROIPooler(7, SCALES, sampling_ratio=0, pooler_type="ROIAlignV2")
    features, boxes = _features(1, 320, 256), [Boxes(torch.tensor([box]))]
    with quiet_detectron2():
        expected = pooler([f.contiguous() for f in features], boxes)
    torch.testing.assert_close(pool(pooler, features, boxes), expected, rtol=0, atol=2e-5)


def test_other_kinds_of_pooler_are_served_by_torchvision() -> None:
    pooler = ROIPooler(7, SCALES, sampling_ratio=2, pooler_type="ROIAlign")
    features, boxes = _features(1, 320, 256), [_boxes(20, 320, 256, seed=3)]
    with quiet_detectron2():
        expected = pooler([f.contiguous() for f in features], boxes)
    torch.testing.assert_close(pool(pooler, features, boxes), expected)


def test_bfloat16_maps_keep_pixel_exact_boxes() -> None:
    # box coordinates near 1000 would move by 4 pixels if they were rounded to bf16 along with the maps
    pooler = ROIPooler(7, SCALES, sampling_ratio=0, pooler_type="ROIAlignV2")
    ramp = torch.arange(256.0).expand(1, 8, 200, 256).contiguous(memory_format=torch.channels_last)
    features = [ramp, *(torch.zeros(1, 8, int(800 * s), int(1024 * s)) for s in SCALES[1:])]
    box = [Boxes(torch.tensor([[901.0, 301.0, 957.0, 357.0]]))]
    exact, rounded = pool(pooler, features, box), pool(pooler, [f.bfloat16() for f in features], box)
    torch.testing.assert_close(rounded.float(), exact, rtol=2**-7, atol=0)


def test_no_boxes() -> None:
    pooler = ROIPooler(7, SCALES, sampling_ratio=0, pooler_type="ROIAlignV2")
    assert pool(pooler, _features(1, 64, 64), [Boxes(torch.zeros(0, 4))]).shape == (0, 24, 7, 7)
