"""The process: waitress, flags, the tunnel; and that pictures and keys stay in memory."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.web_client.conftest import serving
from tests.web_client.stub import Stub, balloon_picture
from tests.web_client.test_errors import assert_error_shape
from web_client import config, create_app
from web_client import server as server_module
from web_client.__main__ import main, parser
from web_client.tunnel import TunnelError, open_tunnel

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


def test_no_upload_and_no_answer_touches_the_disk(config: dict[str, Any], stub: Stub) -> None:
    global _watching
    with serving(create_app(config)) as url:
        requests.get(url + "/", timeout=10)
        stub.write_keys()
        _opened.clear()
        _watching = True
        try:
            page = requests.post(
                url + "/", files={"image": ("a.bmp", LARGE)}, headers={"Accept": "text/html"}, timeout=20
            )
            reply = requests.post(url + "/api/predict", files={"image": ("a.bmp", LARGE)}, timeout=20)
            Path(os.devnull).open("w").close()
        finally:
            _watching = False
    assert page.status_code == 200
    assert reply.status_code == 200
    assert stub.requests[-1]["bytes"] == LARGE
    assert _opened == [os.devnull]  # the watch works, and saw nothing else


def test_log_has_ids_and_times_but_no_names_keys_or_pictures(
    config: dict[str, Any], stub: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = create_app(config).test_client()
    stub.expire_keys()
    form = {"image": (io.BytesIO(balloon_picture()), "my_secret_party.png")}
    client.post("/api/predict?private=1", data=form, headers={"X-Request-ID": "id-77"})
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name == "web_client")
    assert re.search(r"id-77 POST /api/predict 200 \d+ ms \d+ bytes", ours)
    assert "renewing" in ours
    for secret in ("my_secret_party", "private", *stub.keys.values(), "PNG"):
        assert secret not in caplog.text.replace("inference key", "")


def test_waitress_refuses_in_our_shape(config: dict[str, Any]) -> None:
    with serving(create_app(config | {"MAX_BYTES": 100_000})) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"POST /api/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"application/json" in head
        assert_error_shape(requests.models.complexjson.loads(body))
        # somewhat too large is read to its end, so that a browser sees the sentence and no broken connection
        response = requests.post(url + "/api/predict", files={"image": ("a.png", b"\0" * 150_000)}, timeout=5)
        assert response.status_code == 413
        assert_error_shape(response.json())


def test_a_crowd_of_unfinished_uploads_is_refused_before_the_memory_is_full(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "WAITING_BYTES", 1_000_000)
    with serving(create_app(config | {"MAX_BYTES": 100_000})) as url, contextlib.ExitStack() as connections:
        host, port = url.removeprefix("http://").split(":")

        def upload(size: int) -> socket.socket:
            connection = connections.enter_context(socket.create_connection((host, int(port)), timeout=5))
            connection.sendall(b"POST /api/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 250000\r\n\r\n")
            for _ in range(size // 50_000):
                connection.sendall(b"\0" * 50_000)
                time.sleep(0.02)  # a few turns of the server's loop
            return connection

        crowd = [upload(200_000) for _ in range(5)]
        late = [upload(100_000), upload(100_000)]
        for connection in late:
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 60" in head
            assert_error_shape(requests.models.complexjson.loads(body))
        for connection in crowd:  # they keep their place
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
        for connection in crowd:
            connection.close()
        time.sleep(0.3)
        form = {"image": ("a.png", balloon_picture())}
        assert requests.post(url + "/api/predict", files=form, timeout=5).status_code == 200


def test_every_setting_has_a_flag_an_environment_variable_and_a_line_of_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = " ".join(parser().format_help().split())
    for setting in config.SETTINGS:
        assert setting.flag in text
        assert setting.help in text
        assert setting.env in text
    monkeypatch.setenv("WEB_CLIENT_MAX_BYTES", "123")
    monkeypatch.setenv("WEB_CLIENT_INFERENCE_URL", "http://127.0.0.1:1")
    assert parser().parse_args([]).MAX_BYTES == 123
    assert parser().parse_args(["--max-bytes", "7"]).MAX_BYTES == 7
    assert create_app().config["INFERENCE_URL"] == "http://127.0.0.1:1"


def test_a_setting_that_is_no_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEB_CLIENT_PORT", "many")
    assert main([]) == 1
    assert capsys.readouterr().err == "error: WEB_CLIENT_PORT='many' is not a number\n"


def test_a_port_in_use_is_one_sentence(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: cannot listen on 127.0.0.1:{port}")
    assert message.count("\n") == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_process_serves_until_it_is_stopped(
    config: dict[str, Any], number: signal.Signals, status: int
) -> None:
    flags = [
        "--port",
        "0",
        "--inference-url",
        config["INFERENCE_URL"],
        "--management-url",
        config["MANAGEMENT_URL"],
    ]
    flags += ["--key-file", config["KEY_FILE"], "--public"]
    environment = {key: value for key, value in os.environ.items() if key != "NGROK_AUTHTOKEN"}
    command = [sys.executable, "-m", "web_client", *flags]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        reply = requests.post(url + "api/predict", files={"image": ("a.png", balloon_picture())}, timeout=10)
        assert reply.json()["instances"]
        time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == status
    assert "NGROK_AUTHTOKEN is not set" in errors
    assert "Traceback" not in errors


class TestTunnel:
    def test_without_a_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NGROK_AUTHTOKEN", raising=False)
        with pytest.raises(TunnelError, match="NGROK_AUTHTOKEN is not set"):
            open_tunnel(5000)

    def test_with_a_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NGROK_AUTHTOKEN", "t")
        closed: list[str] = []
        listener = types.SimpleNamespace(url=lambda: "https://example.ngrok.app")

        def forward(port: int, authtoken_from_env: bool) -> Any:
            assert (port, authtoken_from_env) == (5000, True)
            return listener

        fake = types.SimpleNamespace(forward=forward, disconnect=closed.append)
        monkeypatch.setitem(sys.modules, "ngrok", fake)  # type: ignore[arg-type]
        url, close = open_tunnel(5000)
        close()
        assert url == "https://example.ngrok.app"
        assert closed == [url]

    def test_that_does_not_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NGROK_AUTHTOKEN", "t")

        def forward(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("failed to connect session\nmore")

        monkeypatch.setitem(sys.modules, "ngrok", types.SimpleNamespace(forward=forward))  # type: ignore[arg-type]
        with pytest.raises(TunnelError, match=r"did not open a tunnel \(failed to connect session\)"):
            open_tunnel(5000)


def test_behind_the_tunnel_each_visitor_has_a_count_of_their_own(config: dict[str, Any]) -> None:
    from web_client.server import address, create_server

    app = create_app(config | {"RATE_LIMIT": "1 per minute"})
    for behind_proxy, expected in ((True, [200, 200, 429]), (False, [429, 429, 429])):
        app.config["TRUSTED_PROXY"] = "127.0.0.1" if behind_proxy else ""
        server = create_server(app)
        import threading

        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        host, port = address(server)
        url = f"http://{host}:{port}/api/predict"
        statuses = []
        if not behind_proxy:
            requests.post(url, files={"image": ("a.png", balloon_picture())}, timeout=5)
        for visitor in ("203.0.113.1", "203.0.113.2", "203.0.113.1"):
            files = {"image": ("a.png", balloon_picture())}
            statuses.append(
                requests.post(url, files=files, headers={"X-Forwarded-For": visitor}, timeout=5).status_code
            )
        server.close()
        thread.join(5)
        assert statuses == expected
