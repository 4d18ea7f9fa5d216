import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge

from handler.model.preprocess import Normalizer, group_like_sized, resize
from tests.toy_models import photo


@pytest.mark.parametrize(
    ("height", "width", "short"), [(90, 120, 96), (240, 170, 96), (64, 64, 96), (1200, 1700, 800)]
)
def test_pixels_are_detectron2s(height: int, width: int, short: int) -> None:
    image = photo(height, width)
    expected = ResizeShortestEdge([short, short], 1333).get_transform(image).apply_image(image)
    resized = resize(image, ResizeShortestEdge.get_output_shape(height, width, short, 1333)).numpy()
    difference = np.abs(resized.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_batches_are_normalised_in_bgr_and_padded_with_zero() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).expand(40, 50, 3)  # RGB
    batch = Normalizer([1.0, 2.0, 3.0], [1.0, 1.0, 2.0], bgr=True, multiple=32)([image, image[:33]])
    assert batch.shape == (2, 3, 64, 64)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch[0, :, 39, 49].tolist() == [29.0, 18.0, 3.5]
    assert (
        batch[0, :, 40:].abs().sum() == batch[1, :, 33:].abs().sum() == batch[:, :, :, 50:].abs().sum() == 0
    )


def test_every_image_is_in_one_group_and_groups_waste_little() -> None:
    random = np.random.default_rng(0)
    shapes = [(int(h), int(w)) for h, w in random.integers(300, 1333, (40, 2))]
    groups = group_like_sized(shapes, waste=1.2)
    assert sorted(index for group in groups for index in group) == list(range(40))
    for group in groups:
        chosen = np.array([shapes[i] for i in group])
        assert chosen.max(0).prod() * len(group) <= 1.2 * chosen.prod(1).sum()
    assert len(groups) < 40
