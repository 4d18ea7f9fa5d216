from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web_client.stub import Stub, running_stub
from web_client import create_app
from web_client.server import address, create_server


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    with running_stub(tmp_path) as running:
        yield running


@pytest.fixture
def config(stub: Stub) -> dict[str, Any]:
    return {
        "INFERENCE_URL": stub.url,
        "MANAGEMENT_URL": stub.url,
        "KEY_FILE": str(stub.key_file),
        "HOST": "127.0.0.1",
        "PORT": 0,
        "RATE_LIMIT": "",
        "TIMEOUT": 5.0,
    }


@pytest.fixture
def app(config: dict[str, Any]) -> Flask:
    return create_app(config)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """The app behind the real waitress, in a thread; gives its address."""
    server = create_server(app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    host, port = address(server)
    try:
        yield f"http://{host}:{port}"
    finally:
        server.pull_trigger()
        server.task_dispatcher.shutdown(timeout=2)
        server.close()
        thread.join(5)


@pytest.fixture
def serve() -> Callable[[Flask], Any]:
    return serving
