"""The page before the real TorchServe: two archives of small random Mask R-CNNs, every feature clicked once.

The steps are those of ``tests/web_client/test_browser.py``; only what stands behind the page differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.cli import main as finetune
from tests.torchserve_fixture import RunningTorchServe, running_torchserve
from tests.toy_models import write_run
from tests.web_client import browser, test_browser
from tests.web_client.conftest import serving
from web_client import create_app

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
        arguments = [
            "export",
            str(folder / backbone),
            "--output",
            str(folder / "exported"),
            "--engine",
            "torch",
        ]
        assert finetune(arguments) == 0
        archives.append(folder / "exported" / f"maskrcnn_{backbone}.mar")
    with running_torchserve(folder, archives) as running:
        yield running


@pytest.fixture(scope="module")
def base_url(torchserve: RunningTorchServe) -> Iterator[str]:
    ports = json.loads(torchserve.home.state_file.read_text())["ports"]
    config = {
        "INFERENCE_URL": f"http://127.0.0.1:{ports['inference']}",
        "MANAGEMENT_URL": f"http://127.0.0.1:{ports['management']}",
        "KEY_FILE": str(torchserve.home.key_file),
        "HOST": "127.0.0.1",
        "PORT": 0,
        "RATE_LIMIT": "off",
    }
    with serving(create_app(config)) as url:
        yield url
