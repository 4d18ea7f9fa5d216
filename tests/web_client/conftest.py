from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from waitress import wasyncore

from tests.web_client.stub import Stub, running_stub
from web_client.app import create_app
from web_client.server.listener import address, create_server

TOOLS = Path(__file__).with_name("annotation_tools.py")


def ask_tools(name: str, **arguments: Any) -> Any:
    """What ``annotation_tools`` answers in the Python that ANNOTATION_TOOLS names; skips the test without one."""
    python = os.environ.get("ANNOTATION_TOOLS")
    if not python:
        pytest.skip("set ANNOTATION_TOOLS as tests/web_client/annotation_tools.py says")
    done = subprocess.run(
        [python, TOOLS],
        input=json.dumps([name, arguments]),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(TOOLS.parents[2])},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stub_config(stub: Stub, **more: Any) -> dict[str, Any]:
    """The web client's settings in front of a stub: any free port, no rate limit."""
    return {
        "INFERENCE_URL": stub.url,
        "MANAGEMENT_URL": stub.url,
        "KEY_FILE": str(stub.key_file),
        "PORT": 0,
        "RATE_LIMIT": "off",
        "TIMEOUT": 10.0,
        **more,
    }


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    with running_stub(tmp_path) as running:
        yield running


@pytest.fixture
def config(stub: Stub) -> dict[str, Any]:
    return stub_config(stub)


@pytest.fixture
def app(config: dict[str, Any]) -> Flask:
    return create_app(config)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """Serve the app with waitress in a thread. Yields its address."""
    server = create_server(app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    host, port = address(server)
    try:
        yield f"http://{host}:{port}"
    finally:
        server.task_dispatcher.shutdown(timeout=2)
        # Close in the server's own thread, open connections included: its loop runs until none is left.
        server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map))
        thread.join(5)
        assert not thread.is_alive()
