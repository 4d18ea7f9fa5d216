"""The page: its weight, its headers, and that it waits for nobody."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

import web_client.config
from web_client.app import create_app
from web_client.backend.torchserve import DESCRIBE_SECONDS
from web_client.config import BROWSER_EXTRA
from web_client.server.tokens import TokenFile

STATIC = Path(web_client.__file__).parent / "page" / "static"


def links(html: str) -> set[str]:
    return set(re.findall(r"""(?:src|href|action|data-sample)="([^"#]+)""", html))


def test_the_whole_page_weighs_at_most_150_kb(client: FlaskClient) -> None:
    html = client.get("/")
    static = {link for link in links(html.text) if link.startswith("/static/")}
    every_module = {f"/static/js/{path.name}" for path in (STATIC / "js").iterdir()}
    assert every_module <= static  # preloaded, so none is discovered late
    sizes = {link: len(client.get(link, buffered=True).data) for link in static}
    assert len(html.data) + sum(sizes.values()) <= 150_000, sizes


def test_nothing_comes_from_another_host(client: FlaskClient) -> None:
    assert all(link.startswith("/") for link in links(client.get("/").text))
    for path in STATIC.rglob("*"):
        if path.suffix in (".js", ".css"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|\burl\(|@import", text), path


def test_no_inline_script_or_style(client: FlaskClient) -> None:
    """The content security policy would silently disable them."""
    for html in (client.get("/").text, client.get("/api").text):
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", html))


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Content-Security-Policy", "script-src 'self'; style-src 'self'"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    ],
)
def test_security_headers(client: FlaskClient, header: str, value: str) -> None:
    for path in ("/", "/static/js/app.js", "/healthz", "/nowhere"):
        assert value in client.get(path, buffered=True).headers[header]
    assert "unsafe" not in client.get("/").headers["Content-Security-Policy"]


def test_answers_are_not_kept_by_anybody(client: FlaskClient) -> None:
    for path in ("/", "/api/models", "/healthz"):
        assert client.get(path).headers["Cache-Control"] == "no-store"


def test_the_form_itself_sends_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    """Without scripts a browser would put its fields, the token among them, into the page's address."""
    tokens = TokenFile(tmp_path / "tokens.json")
    tokens.add("anna")
    html = create_app(config | {"TOKEN_FILE": str(tokens.path)}).test_client().get("/").text
    form = html.partition("<form")[2].partition("</form>")[0]
    assert 'id="token"' in form
    assert " name=" not in form
    assert "This page needs JavaScript" in form


def test_no_page_waits_for_a_torchserve_that_hangs(config: dict[str, Any]) -> None:
    html = {"Accept": "text/html"}
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = create_app(config | {"MANAGEMENT_URL": url, "INFERENCE_URL": url}).test_client()
        start = time.monotonic()
        for path, status in (("/", 200), ("/nowhere", 404), ("/", 200)):
            response = client.get(path, headers=html)
            assert response.status_code == status
            assert "<form" in response.text
        assert time.monotonic() - start < DESCRIBE_SECONDS  # the old page waited as long, each time


def test_each_timeout_outlasts_the_one_inside_it(config: dict[str, Any], client: FlaskClient) -> None:
    page = web_client.config.from_environment({})["TIMEOUT"]
    assert page > 120  # TorchServe's response timeout
    html = create_app(config | {"TIMEOUT": page}).test_client().get("/").text
    browser = re.search(r'data-timeout-ms="(\d+)"', html)
    assert browser
    assert int(browser[1]) == 1000 * (page + BROWSER_EXTRA) > 1000 * page
    for path in (STATIC / "js").glob("*.js"):  # the scripts have no limit of their own
        assert not re.search(r"timeout\w* ?= ?\d|timeout\(\d", path.read_text(), re.I), path
