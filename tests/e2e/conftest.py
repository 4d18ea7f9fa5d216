from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.handler.served import handler_archive
from tests.torchserve_fixture import RunningTorchServe, running_torchserve
from tests.web_client.conftest import serving
from web_client.app import create_app


def page_config(server: RunningTorchServe, **more: Any) -> dict[str, Any]:
    """The page's settings for a running TorchServe: any free port, no rate limit."""
    return {
        "INFERENCE_URL": server.client.url("inference", ""),
        "MANAGEMENT_URL": server.client.url("management", ""),
        "KEY_FILE": str(server.home.key_file),
        "HOST": "127.0.0.1",
        "PORT": 0,
        "RATE_LIMIT": "off",
        **more,
    }


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTorchServe]:
    """The real TorchServe with the real handler around a tiny random model."""
    folder = tmp_path_factory.mktemp("served")
    with running_torchserve(folder, [handler_archive(folder / "archive")]) as server:
        yield server


@pytest.fixture(scope="session")
def page(served: RunningTorchServe) -> Iterator[str]:
    """The web server in front of ``served``; its URL."""
    with serving(create_app(page_config(served))) as url:
        yield url
