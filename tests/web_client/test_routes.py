"""The page: its weight, its headers, and its form for browsers without JavaScript."""

from __future__ import annotations

import base64
import io
import re
import socket
import time
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from flask.testing import FlaskClient

import web_client.config
from tests.web_client.stub import Stub, balloon_picture
from web_client.app import create_app
from web_client.backend.torchserve import DESCRIBE_SECONDS
from web_client.page.routes import SAMPLES

STATIC = Path(web_client.__file__).parent / "page" / "static"


PICTURE = balloon_picture(300, 200)


def overlay_of(html: str) -> ElementTree.Element:
    """The SVG behind the download link."""
    link = re.search(r'href="data:image/svg\+xml,([^"]+)"', html)
    assert link
    return ElementTree.fromstring(unquote(unescape(link[1])))


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
    for html in (client.get("/").text, post(client).text):
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


def post(client: FlaskClient, **form: Any) -> Any:
    data = {"image": (io.BytesIO(PICTURE), "party.jpg")} | form
    return client.post("/", data=data, headers={"Accept": "text/html"})


class TestWithoutJavaScript:
    def test_the_form_answers_with_masks_numbers_and_a_download(
        self, client: FlaskClient, stub: Stub
    ) -> None:
        html = post(client, score_threshold="0.3", version="resnet50_fpn").text
        assert "resnet50_fpn" in html
        assert 'download="party_overlay.svg"' in html
        svg = overlay_of(html)
        assert (svg.get("width"), svg.get("height")) == ("300", "200")
        image, *paths = svg
        assert image.get("href") == "data:image/png;base64," + base64.b64encode(PICTURE).decode()
        assert [path.get("d", "")[0] for path in paths] == ["M"] * html.count("<td>balloon")

    def test_the_form_runs_the_model_once(self, client: FlaskClient, stub: Stub) -> None:
        post(client, score_threshold="0.3")
        assert [entry["options"] for entry in stub.requests] == [
            {"score_threshold": "0.3", "mask_format": "polygon"}
        ]

    @pytest.mark.parametrize("name", SAMPLES)
    def test_a_sample_is_a_button(self, client: FlaskClient, stub: Stub, name: str) -> None:
        response = client.post("/", data={"sample": name}, headers={"Accept": "text/html"})
        assert response.status_code == 200
        assert stub.requests[0]["bytes"] == (STATIC / "samples" / f"{name}.webp").read_bytes()

    @pytest.mark.parametrize("name", ["../../keys", "nobody", "/etc/passwd"])
    def test_a_sample_that_is_none(self, client: FlaskClient, name: str) -> None:
        assert client.post("/", data={"sample": name}).status_code == 404

    def test_nothing_found(self, client: FlaskClient) -> None:
        empty = (io.BytesIO(balloon_picture(balloons=[])), "empty.png")
        assert "No object reaches the minimum score." in post(client, image=empty).text

    def test_without_a_minimum_the_model_s_own_holds(self, client: FlaskClient, stub: Stub) -> None:
        html = post(client, score_threshold="").text
        assert [entry["options"] for entry in stub.requests] == [{"mask_format": "polygon"}]
        assert "minimum score the model" in html

    @pytest.mark.parametrize(
        ("mode", "words"), [("no_worker", "busy or still starting"), ("broken", "failed on this picture")]
    )
    def test_a_failure_is_shown_beside_the_form(
        self, client: FlaskClient, stub: Stub, mode: str, words: str
    ) -> None:
        stub.mode = mode
        html = post(client).text
        assert words in html
        assert "<form" in html

    def test_names_are_escaped(self, client: FlaskClient) -> None:
        html = post(client, image=(io.BytesIO(balloon_picture()), '"><script>alert(1)</script>.png')).text
        assert "<script>alert" not in html


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


def test_the_timeout_outlasts_torchserves() -> None:
    """And the scripts have none: the visitor sees the innermost message, and can cancel."""
    assert web_client.config.read({})["TIMEOUT"] > 120  # TorchServe's response timeout
    for path in (STATIC / "js").glob("*.js"):
        assert not re.search(r"timeout\w* ?= ?\d|timeout\(\d", path.read_text(), re.I), path
