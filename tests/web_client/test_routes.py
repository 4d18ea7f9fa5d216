"""The page: its weight, its headers, and its form for browsers without JavaScript."""

from __future__ import annotations

import base64
import re
import socket
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from flask.testing import FlaskClient

import web_client.config
from tests.web_client.conftest import send
from tests.web_client.stub import Stub, balloon_picture
from web_client.backend.torchserve import DESCRIBE_SECONDS
from web_client.page.routes import SAMPLES

STATIC = Path(web_client.config.__file__).parent / "page" / "static"
PICTURE = balloon_picture(300, 200)
HTML = {"Accept": "text/html"}


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
    for path in (*STATIC.rglob("*.js"), *STATIC.rglob("*.css")):
        assert not re.search(r"https?://|\burl\(|@import", path.read_text()), path


def test_no_inline_script_or_style(client: FlaskClient) -> None:
    """The content security policy would silently disable them."""
    for html in (client.get("/").text, post(client)):
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
        given = client.get(path, buffered=True).headers[header]
        assert value in given
        assert "unsafe" not in given


def test_answers_are_not_kept_by_anybody(client: FlaskClient) -> None:
    for path in ("/", "/api/models", "/healthz"):
        assert client.get(path).headers["Cache-Control"] == "no-store"


def post(client: FlaskClient, picture: bytes = PICTURE, **form: Any) -> str:
    return send(client, picture, "/", HTML, **form).text


class TestWithoutJavaScript:
    def test_the_form_answers_with_masks_numbers_and_a_download(
        self, client: FlaskClient, stub: Stub
    ) -> None:
        html = post(client, score_threshold="0.3", version="resnet50_fpn")
        assert "resnet50_fpn" in html
        assert 'download="party_overlay.svg"' in html
        link = re.search(r'href="data:image/svg\+xml,([^"]+)"', html)
        assert link
        svg = ElementTree.fromstring(unquote(unescape(link[1])))
        assert (svg.get("width"), svg.get("height")) == ("300", "200")
        image, *paths = svg
        assert image.get("href") == "data:image/png;base64," + base64.b64encode(PICTURE).decode()
        assert [path.get("d", "")[0] for path in paths] == ["M"] * html.count("<td>balloon")
        (asked,) = stub.requests  # the model runs once
        assert asked["options"] == {"score_threshold": "0.3", "mask_format": "polygon"}

    @pytest.mark.parametrize("name", SAMPLES)
    def test_a_sample_is_a_button(self, client: FlaskClient, stub: Stub, name: str) -> None:
        assert client.post("/", data={"sample": name}, headers=HTML).status_code == 200
        assert stub.requests[0]["bytes"] == (STATIC / "samples" / f"{name}.webp").read_bytes()

    @pytest.mark.parametrize("name", ["../../keys", "nobody", "/etc/passwd"])
    def test_a_sample_that_is_none(self, client: FlaskClient, name: str) -> None:
        assert client.post("/", data={"sample": name}).status_code == 404

    def test_nothing_found(self, client: FlaskClient) -> None:
        assert "No object reaches the minimum score." in post(client, balloon_picture(balloons=[]))

    def test_without_a_minimum_the_model_s_own_holds(self, client: FlaskClient, stub: Stub) -> None:
        assert "minimum score the model" in post(client, score_threshold="")
        assert [entry["options"] for entry in stub.requests] == [{"mask_format": "polygon"}]

    @pytest.mark.parametrize(
        ("mode", "words"), [("no_worker", "busy or still starting"), ("broken", "failed on this picture")]
    )
    def test_a_failure_is_shown_beside_the_form(
        self, client: FlaskClient, stub: Stub, mode: str, words: str
    ) -> None:
        stub.mode = mode
        html = post(client)
        assert words in html
        assert "<form" in html

    def test_names_are_escaped(self, client: FlaskClient) -> None:
        assert "<script>alert" not in post(client, name='"><script>alert(1)</script>.png')


def test_no_page_waits_for_a_torchserve_that_hangs(make_client: Callable[..., FlaskClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = make_client(MANAGEMENT_URL=url, INFERENCE_URL=url)
        start = time.monotonic()
        for path, status in (("/", 200), ("/nowhere", 404)):
            response = client.get(path, headers=HTML)
            assert response.status_code == status
            assert "<form" in response.text
        assert time.monotonic() - start < DESCRIBE_SECONDS


def test_the_timeout_outlasts_torchserves() -> None:
    """And the scripts have none: the visitor sees the innermost message, and can cancel."""
    assert web_client.config.read({})["TIMEOUT"] > 120  # TorchServe's response timeout
    for path in (STATIC / "js").glob("*.js"):
        assert not re.search(r"timeout\w* ?= ?\d|timeout\(\d", path.read_text(), re.I), path
