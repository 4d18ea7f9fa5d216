"""The page in front of the real TorchServe with two small random Mask R-CNNs: the tests of ``test_browser.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.conftest import page_config
from tests.torchserve_fixture import RunningTorchServe, running_torchserve
from tests.toy_models import write_run
from tests.web_client import browser, test_browser
from tests.web_client.conftest import serving
from web_client.app import create_app

pytestmark = [pytest.mark.e2e, pytest.mark.browser]
chromium, page, picture = browser.chromium, browser.page, test_browser.picture

for feature in vars(test_browser).copy().values():
    if getattr(feature, "__module__", "") == test_browser.__name__ and feature.__name__.lower().startswith(
        "test"
    ):
        globals()[feature.__name__] = feature


@pytest.fixture
def eyes() -> None:
    pytest.skip("a random model finds something, but nothing in particular")


@pytest.fixture(scope="module")
def torchserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTorchServe]:
    """TorchServe with two versions of a random model that finds about ten things in any picture."""
    folder = tmp_path_factory.mktemp("torchserve")
    archives: list[Path | str] = []
    for backbone in ("mobilenetv2_fpn", "vovnet19_fpn"):
        write_run(folder / backbone, backbone)
        command = f"-m finetune export {backbone} --output exported --engine torch"
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        subprocess.run([sys.executable, *command.split()], cwd=folder, env=environment, check=True)
        archives.append(folder / "exported" / f"maskrcnn_{backbone}.mar")
    with running_torchserve(folder, archives) as running:
        yield running


@pytest.fixture(scope="module")
def base_url(torchserve: RunningTorchServe) -> Iterator[str]:
    with serving(create_app(page_config(torchserve))) as url:
        yield url
