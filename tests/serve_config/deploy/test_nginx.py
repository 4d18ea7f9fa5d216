"""The proxy's configuration, run by nginx in front of the page."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.serve_config.conftest import REPOSITORY
from tests.web_client.conftest import serving, stub_config
from tests.web_client.stub import balloon_picture, running_stub
from web_client.app import create_app

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CONFIG = REPOSITORY / "serve_config/deploy/nginx/maskrcnn.conf"
MAIN = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{ client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
        uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; include {folder}/maskrcnn.conf; }}
"""

pytestmark = pytest.mark.skipif(not (NGINX and shutil.which("openssl")), reason="no nginx or no openssl")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[str]:
    """nginx with our configuration on free ports, in front of a page that takes two pictures a minute; its URL."""
    certify = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    )
    certify += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(certify.split(), cwd=tmp_path, check=True, capture_output=True)
    port, plain = free_port(), free_port()
    with running_stub(tmp_path) as stub:
        more = {"TRUSTED_PROXY": "127.0.0.1", "RATE_LIMIT": "2 per minute"}
        with serving(create_app(stub_config(stub, **more))) as page:
            text = CONFIG.read_text()
            for written, meant in {
                "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
                "listen 80;": f"listen 127.0.0.1:{plain};",
                "/etc/ssl/maskrcnn/fullchain.pem": str(tmp_path / "cert.pem"),
                "/etc/ssl/maskrcnn/privkey.pem": str(tmp_path / "key.pem"),
                "/var/log/nginx/maskrcnn.log": str(tmp_path / "access.log"),
                "http://127.0.0.1:5000": page,
            }.items():
                assert text.count(written) == 1, written
                text = text.replace(written, meant)
            (tmp_path / "maskrcnn.conf").write_text(text)
            (tmp_path / "nginx.conf").write_text(MAIN.format(folder=tmp_path))
            with subprocess.Popen([str(NGINX), "-p", tmp_path, "-c", tmp_path / "nginx.conf"]) as nginx:
                try:
                    yield wait_for(f"https://127.0.0.1:{port}", tmp_path / "cert.pem")
                finally:
                    nginx.terminate()


def wait_for(url: str, certificate: Path) -> str:
    for _ in range(100):
        try:
            requests.get(f"{url}/healthz", verify=str(certificate), timeout=5)
        except requests.ConnectionError:
            time.sleep(0.05)
        else:
            return url
    raise AssertionError("nginx does not listen")


def test_rate_limit_and_request_ids_hold_behind_nginx(proxy: str, tmp_path: Path) -> None:
    def ask(number: int) -> requests.Response:
        headers = {"X-Forwarded-For": f"10.0.0.{number}", "X-Request-ID": f"mine-{number}"}
        files = {"image": ("a.png", balloon_picture())}
        url, certificate = f"{proxy}/api/v1/predict", str(tmp_path / "cert.pem")
        return requests.post(url, files=files, headers=headers, verify=certificate, timeout=30)

    answers = [ask(number) for number in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429], "a made-up address does not help"
    assert [answer.headers["X-Request-ID"] for answer in answers] == ["mine-0", "mine-1", "mine-2"]
    logged = (tmp_path / "access.log").read_text().splitlines()[-3:]
    assert [line.split()[-1] for line in logged] == ["mine-0", "mine-1", "mine-2"]
    assert [line.split()[4] for line in logged] == ["200", "200", "429"]
