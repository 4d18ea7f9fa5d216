"""The public API: versioned routes, several pictures, and a description that tells the truth."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.web_client.conftest import assert_error_shape, refusal, send
from tests.web_client.stub import Stub, balloon_picture

ROOT = Path(__file__).resolve().parents[2]


def send_all(client: FlaskClient, *sizes: tuple[int, int], **form: str) -> TestResponse:
    pictures = [(io.BytesIO(balloon_picture(*size)), "a.png") for size in sizes]
    return client.post("/api/v1/predict", data={"image": pictures, **form})


def test_both_addresses_give_the_same_answer(client: FlaskClient) -> None:
    answers = [send(client, path=path).get_json() for path in ("/api/predict", "/api/v1/predict")]
    assert answers[0]["instances"] == answers[1]["instances"] != []
    assert client.get("/api/models").get_json() == client.get("/api/v1/models").get_json()


def test_several_pictures_in_their_order(client: FlaskClient, stub: Stub) -> None:
    """One that is refused has its error in its place."""
    sizes = [(300, 200), (200, 100), (120, 120)]
    images = [each["image"] for each in send_all(client, *sizes).get_json()["predictions"]]
    assert [(image["width"], image["height"]) for image in images] == sizes
    stub.next_mode = "refused"
    refused, answered = send_all(client, *sizes[:2]).get_json()["predictions"]
    assert_error_shape(refused)
    assert answered["instances"]


@pytest.mark.parametrize(
    ("count", "form", "code"), [(9, {}, "too_many_pictures"), (2, {"output": "overlay"}, "invalid_option")]
)
def test_what_several_pictures_cannot_have(
    client: FlaskClient, count: int, form: dict[str, str], code: str
) -> None:
    refusal(send_all(client, *[(20, 20)] * count, **form), 400, code)


def test_several_pictures_count_as_several(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(RATE_LIMIT="4 per minute")
    three = send_all(client, *[(20, 20)] * 3)
    assert three.status_code == 200
    assert three.headers["X-RateLimit-Remaining"] == "1"
    refusal(send_all(client, *[(20, 20)] * 2), 429, "too_many_requests")


@pytest.fixture
def document(client: FlaskClient) -> Any:
    return client.get("/api/openapi.json").get_json()


def test_the_description_lists_every_route_and_field(app: Flask, document: Any) -> None:
    described = {
        (method.upper(), f"/api{path}") for path, methods in document["paths"].items() for method in methods
    }
    routes = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}
        if "/v1/" in rule.rule
    }
    assert described == routes
    handler = (ROOT / "handler" / "api" / "openapi.yaml").read_text()
    fields = set(document["components"]["schemas"]["Form"]["properties"]) - {"image", "version", "review"}
    assert {field for field in fields if f"{field}:" not in handler} == set()


def test_the_description_lists_every_error_code(document: Any) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "web_client").rglob("*.py"))
    raised = set(re.findall(r'(?:ApiError\(\s*\d+, "|\d{3}: \(")(\w+)"', sources))
    assert len(raised) > 12
    text = str(document["paths"])
    assert {code for code in raised if f"`{code}`" not in text} == {"not_found", "method_not_allowed"}


def test_the_manual_is_a_page_that_marks_code_and_escapes_the_rest(client: FlaskClient) -> None:
    page = client.get("/api", headers={"Accept": "text/html"}).text
    for words in (
        "POST /api/v1/predict",
        "score_threshold",
        "<code>too_many_requests</code>",
        "openapi.json",
        "curl",
    ):
        assert words in page
    assert "&lt;code&gt;" not in page
    assert "`" not in page
