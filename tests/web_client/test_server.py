"""The process: waitress and the command; and that pictures and keys stay in memory."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pytest
import requests
from click.testing import CliRunner
from flask.testing import FlaskClient

from tests.web_client.conftest import assert_error_shape, send, serving
from tests.web_client.stub import Stub, balloon_picture
from web_client import config
from web_client.app import create_app
from web_client.cli import web
from web_client.server import listener
from web_client.server.tokens import TokenFile

ROOT = Path(__file__).resolve().parents[2]
# 3.6 MB: over every threshold at which something might be spooled
LARGE = balloon_picture(1200, 1000, kind="BMP")

_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event == "open":
        path, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR):
            _opened.append(str(path))


sys.addaudithook(_watch)


def post(url: str, picture: bytes | None = None, **options: Any) -> requests.Response:
    data = balloon_picture() if picture is None else picture
    return requests.post(url, files={"image": ("a.png", data)}, timeout=20, **options)


def test_no_upload_and_no_answer_touches_the_disk(config: dict[str, Any], stub: Stub) -> None:
    global _watching
    with serving(create_app(config)) as url:
        requests.get(url + "/", timeout=10)
        stub.write_keys()
        _opened.clear()
        _watching = True
        try:
            answers = [post(url + path, LARGE) for path in ("/", "/api/predict")]
            Path(os.devnull).open("w").close()
        finally:
            _watching = False
    assert [answer.status_code for answer in answers] == [200, 200]
    assert stub.requests[-1]["bytes"] == LARGE
    assert _opened == [os.devnull]  # the watch works, and saw nothing else


def test_log_has_ids_and_times_but_no_names_keys_or_pictures(
    client: FlaskClient, stub: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stub.expire_keys()
    send(client, None, "/api/predict?private=1", {"X-Request-ID": "id-77"}, "my_secret_party.png")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name == "web_client")
    assert re.search(r"id-77 POST /api/predict 200 \d+ ms \d+ bytes", ours)
    assert "renewing" in ours
    for secret in ("my_secret_party", "private", *stub.keys.values(), "PNG"):
        assert secret not in caplog.text.replace("inference key", "")


def test_access_log_is_json_lines(config: dict[str, Any], tmp_path: Path) -> None:
    """On request, with the token's name; still without names, addresses and queries; and it may be rotated."""
    path, tokens = tmp_path / "access.log", TokenFile(tmp_path / "tokens.json")
    header = {"Authorization": f"Bearer {tokens.add('anna')}", "X-Request-ID": "id-78"}
    app = create_app(config | {"ACCESS_LOG": str(path), "TOKEN_FILE": str(tokens.path)})
    client = app.test_client()
    response = send(client, None, "/api/predict?private=1", header, "my_secret_party.png")
    path.rename(tmp_path / "access.log.1")
    client.get("/secret/nowhere")
    app.extensions["access_log"].close()
    lines = [(tmp_path / name).read_text() for name in ("access.log.1", "access.log")]
    assert [text.count("\n") for text in lines] == [1, 1]
    assert not any(word in lines[0] for word in ("my_secret", "private", "127.0.0.1"))
    first, second = map(json.loads, lines)
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first.pop("ms") > 0
    assert first.pop("received") > 1000
    expected = {"id": "id-78", "method": "POST", "path": "/api/predict", "status": 200, "token": "anna"}
    assert first == expected | {"sent": len(response.data)}
    assert (second["path"], second["status"], second["token"]) == (None, 401, None)


def test_an_access_log_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(web, ["--access-log", str(tmp_path)])
    assert result.exit_code == 1
    assert (
        result.output
        == f"Error: the access log {tmp_path} cannot be written (Is a directory): choose another file\n"
    )


def connect(url: str, length: int) -> socket.socket:
    """A connection with the head of an upload."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=5)
    connection.sendall(f"POST /api/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
    return connection


def raw_answer(connection: socket.socket) -> bytes:
    """The head of an answer in the error shape."""
    head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert_error_shape(json.loads(body))
    return head


def test_waitress_refuses_in_our_shape(config: dict[str, Any]) -> None:
    with serving(create_app(config | {"MAX_BYTES": 100_000})) as url:
        with connect(url, 999_999_999) as connection:
            head = raw_answer(connection)
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"application/json" in head
        # somewhat too large is read to its end, so that a browser sees the sentence and no broken connection
        response = post(url + "/api/predict", b"\0" * 150_000)
        assert response.status_code == 413
        assert_error_shape(response.json())


def test_a_crowd_of_unfinished_uploads_is_refused_before_the_memory_is_full(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "WAITING_BYTES", 1_000_000)
    with serving(create_app(config | {"MAX_BYTES": 100_000})) as url, contextlib.ExitStack() as connections:

        def upload(size: int) -> socket.socket:
            connection = connections.enter_context(connect(url, 250_000))
            for _ in range(size // 50_000):
                connection.sendall(b"\0" * 50_000)
                time.sleep(0.02)  # a few turns of the server's loop
            return connection

        crowd = [upload(200_000) for _ in range(5)]
        for connection in [upload(100_000), upload(100_000)]:
            head = raw_answer(connection)
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 60" in head
        for connection in crowd:  # they keep their place
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
            connection.close()
        time.sleep(0.3)
        assert post(url + "/api/predict").status_code == 200


@pytest.mark.parametrize("option", config.OPTIONS, ids=lambda option: option.name)
def test_every_setting_has_a_row_in_the_manual(option: click.Option) -> None:
    manual = (ROOT / "web_client" / "README.md").read_text()
    default = f"`{option.default}`" if option.default != "" else "none"
    assert f"| `{option.opts[0]}` | `{option.envvar}` | {default} | {option.help} |" in manual


def test_options_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CLIENT_MAX_BYTES", "123")
    assert create_app().config["MAX_BYTES"] == 123
    assert create_app({"MAX_BYTES": 7}).config["MAX_BYTES"] == 7
    monkeypatch.setenv("WEB_CLIENT_MAX_BYTES", "")  # as if it were not set
    assert create_app().config["MAX_BYTES"] == 20_000_000
    with pytest.raises(click.NoSuchOption):
        create_app({"MAX_BITES": 7})


UNREADABLE = {
    "RATE_LIMIT": ["abc", "", " ", "60", "60 per fortnight", "none"],
    "MAX_BYTES": ["many", "0", "-1", "1e6"],
    "MAX_PIXELS": ["", "0"],
    "TIMEOUT": ["nan", "inf", "0", "-1", "soon"],
    "TRUSTED_PROXY": ["nginx", "10.0.0.0/8", " "],
    "THREADS": ["0", "all"],
    "PORT": ["65536", "-1", "http"],
    "INFERENCE_URL": ["127.0.0.1:8080", "ftp://x", "http://", "http://x:port"],
    "MANAGEMENT_URL": [""],
    "HOST": [""],  # would listen on every address
    "KEY_FILE": [""],
    "MODEL_NAME": [" "],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in UNREADABLE for value in UNREADABLE[name]]
)
def test_a_setting_that_cannot_be_read_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Above all the guards: Flask-Limiter would log an unreadable limit and then limit nobody."""
    monkeypatch.setattr(listener, "create_server", lambda app: pytest.fail("it started"))
    flag = "--" + name.lower().replace("_", "-")
    result = CliRunner().invoke(web, [f"{flag}={value}"])
    assert result.exit_code == 2
    assert f"Error: Invalid value for '{flag}'" in result.output
    with pytest.raises(click.BadParameter):
        create_app({name: value})
    if value:
        monkeypatch.setenv(f"WEB_CLIENT_{name}", value)
        with pytest.raises(click.BadParameter) as caught:
            create_app()
        assert f"WEB_CLIENT_{name}" in caught.value.format_message()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_an_address_that_cannot_be_used_is_one_sentence(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(web, ["--host", host, "--port", str(port)])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: Cannot listen on {host}:{port}")
    assert result.output.count("\n") == 1


def test_help_needs_neither_flask_nor_requests() -> None:
    script = "import sys, web_client.cli; print(*{'flask', 'requests', 'waitress', 'PIL'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("number", "status", "more"), [(signal.SIGINT, 130, ""), (signal.SIGTERM, 0, "--access-log -")]
)
def test_the_process_serves_until_it_is_stopped(
    config: dict[str, Any], number: signal.Signals, status: int, more: str
) -> None:
    """Also as a shell's background job, which starts with SIGINT ignored. With the access log on stdout, nothing else
    is written there."""
    flags = f"{more} --port 0 --inference-url {config['INFERENCE_URL']} --management-url {config['MANAGEMENT_URL']}"
    command = [sys.executable, "-m", "web_client", *flags.split(), "--key-file", config["KEY_FILE"]]
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True)
    finally:
        signal.signal(signal.SIGINT, former)
    with process:
        stream = process.stderr if more else process.stdout
        assert stream is not None
        url = next(line.strip() for line in stream if line.startswith("http"))
        assert post(url + "api/predict").json()["instances"]
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == status
    if more:
        assert [json.loads(line)["path"] for line in output.splitlines()] == ["/api/predict"]
    else:
        assert "Tokens: off" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("proxy", "expected"), [("127.0.0.1", [200, 200, 429]), ("", [200, 429, 429])], ids=["proxy", "none"]
)
def test_each_visitor_behind_a_trusted_proxy_has_their_own_count(
    config: dict[str, Any], proxy: str, expected: list[int]
) -> None:
    app = create_app(config | {"RATE_LIMIT": "1 per minute", "TRUSTED_PROXY": proxy})
    with serving(app) as url:
        headers = [{"X-Forwarded-For": f"203.0.113.{visitor}"} for visitor in (1, 2, 1)]
        statuses = [post(f"{url}/api/predict", headers=each).status_code for each in headers]
    assert statuses == expected
