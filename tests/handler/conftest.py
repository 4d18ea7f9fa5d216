from pathlib import Path

import pytest
from torch import nn

from tests.toy_models import write_unpacked_archive


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """An unpacked archive of a tiny random model, and the Detectron2 model in it."""
    folder = tmp_path_factory.mktemp("archive")
    return folder, write_unpacked_archive(folder)
