from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from tests.handler.served import handler_archive
from tests.torchserve_fixture import RunningTorchServe, running_torchserve
from tests.toy_models import write_unpacked_archive


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """An unpacked archive of a tiny random model, and the Detectron2 model in it."""
    folder = tmp_path_factory.mktemp("archive")
    return folder, write_unpacked_archive(folder)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTorchServe]:
    """The real TorchServe with the real handler around a tiny random model."""
    folder = tmp_path_factory.mktemp("served")
    with running_torchserve(folder, [handler_archive(folder / "archive")]) as server:
        yield server


@pytest.fixture(scope="session")
def real_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the real handler around a tiny random model; ``parts`` beside it is its content."""
    return handler_archive(tmp_path_factory.mktemp("real"))
