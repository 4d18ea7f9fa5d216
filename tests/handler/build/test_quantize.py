import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge

from handler.model.engines.openvino_engine import buckets


@pytest.mark.parametrize(("short", "long"), [(800, 1333), (640, 1066), (96, 160), (800, 800)])
def test_every_image_fits_into_a_bucket(short: int, long: int) -> None:
    shapes = buckets(short, long, 32)
    assert len(shapes) <= 7
    assert all(side % 32 == 0 for shape in shapes for side in shape)
    random = np.random.default_rng(0)
    for height, width in random.integers(10, 4000, (300, 2)).tolist():
        resized = ResizeShortestEdge.get_output_shape(height, width, short, long)
        assert any(h >= resized[0] and w >= resized[1] for h, w in shapes), (height, width)
