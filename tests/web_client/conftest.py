from __future__ import annotations

import io
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from waitress import wasyncore
from werkzeug.test import TestResponse

from tests.web_client.stub import Stub, balloon_picture, running_stub
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
def make_client(config: dict[str, Any]) -> Callable[..., FlaskClient]:
    """Makes a test client of an app with the given settings."""
    return lambda **settings: create_app(config | settings).test_client()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def send(
    client: FlaskClient,
    picture: bytes | None = None,
    path: str = "/api/v1/predict",
    headers: dict[str, str] | None = None,
    name: str = "party.png",
    **form: Any,
) -> TestResponse:
    """Post a picture as a form; by default one with a single object."""
    data = balloon_picture() if picture is None else picture
    return client.post(path, data={**form, "image": (io.BytesIO(data), name)}, headers=headers)


def assert_error_shape(body: Any) -> None:
    assert list(body) == ["error"]
    assert set(body["error"]) == {"code", "message", "field"}
    assert re.fullmatch(r"[a-z_]+", body["error"]["code"])
    assert re.fullmatch(r"[A-Z].*\.", body["error"]["message"], re.S)


def refusal(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The error of a response, after checking its shape, status, code and, where one is due, Retry-After."""
    body = response.get_json()
    assert_error_shape(body)
    error: dict[str, Any] = body["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert status not in (429, 503) or int(response.headers["Retry-After"]) > 0
    return error


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
