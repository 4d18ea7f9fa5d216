import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune.data.dataset import Instance, Photo, write_dataset
from tests.toy_models import write_data_of, write_run


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Six photos of bright discs, two for validation: enough for the path, not for a good model."""
    rng = np.random.default_rng(0)

    def photo(number: int) -> Photo:
        image = rng.integers(0, 80, (64, 80, 3), dtype=np.uint8)
        x, y, radius = int(rng.integers(20, 60)), int(rng.integers(20, 44)), 14
        cv2.circle(image, (x, y), radius, (30, 60, 250), -1)
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        polygon = (
            np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).ravel().tolist()
        )
        return Photo(
            f"{number}.png", cv2.imencode(".png", image)[1].tobytes(), 80, 64, [Instance(0, [polygon])]
        )

    root = tmp_path_factory.mktemp("data") / "discs"
    splits = {"train": [photo(i) for i in range(4)], "val": [photo(i) for i in range(4, 6)]}
    write_dataset(root, name="discs", classes=["disc"], source="drawn", splits=splits)
    return root


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory) -> Path:
    """The run folder of a random model; tests that write into it take ``copied_run``."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    write_run(folder)
    return folder


@pytest.fixture
def copied_run(toy_run, tmp_path) -> Path:
    return shutil.copytree(toy_run, tmp_path / "toy")


@pytest.fixture(scope="session")
def toy_data(toy_run, tmp_path_factory) -> Path:
    """Photos whose objects are what the toy model finds in them, so that its AP is high; no test split."""
    return write_data_of(toy_run, tmp_path_factory.mktemp("toy_data"))
