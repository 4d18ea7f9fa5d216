"""The public API: versioned routes, several pictures, and a description that tells the truth."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web_client.stub import Stub, balloon_picture
from tests.web_client.test_errors import assert_error_shape
from web_client.app import create_app

ROOT = Path(__file__).resolve().parents[2]


def picture(*size: int) -> tuple[io.BytesIO, str]:
    return io.BytesIO(balloon_picture(*size)), "a.png"


def test_both_addresses_give_the_same_answer(client: FlaskClient) -> None:
    answers = [client.post(path, data={"image": picture()}) for path in ("/api/predict", "/api/v1/predict")]
    assert answers[0].get_json()["instances"] == answers[1].get_json()["instances"] != []
    assert client.get("/api/models").get_json() == client.get("/api/v1/models").get_json()


def test_several_pictures_in_their_order(client: FlaskClient) -> None:
    sizes = [(300, 200), (200, 100), (120, 120)]
    response = client.post("/api/v1/predict", data={"image": [picture(*size) for size in sizes]})
    images = [entry["image"] for entry in response.get_json()["predictions"]]
    assert [(image["width"], image["height"]) for image in images] == sizes


def test_one_of_several_is_refused_in_its_place(client: FlaskClient, stub: Stub) -> None:
    stub.next_mode = "refused"
    body = client.post("/api/v1/predict", data={"image": [picture(), picture()]}).get_json()
    refused, answered = body["predictions"]
    assert_error_shape(refused)
    assert answered["instances"]


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"image": [picture(20, 20) for _ in range(9)]}, "too_many_pictures"),
        ({"image": [picture(), picture()], "output": "overlay"}, "invalid_option"),
    ],
)
def test_what_several_pictures_cannot_have(client: FlaskClient, form: dict[str, Any], code: str) -> None:
    response = client.post("/api/v1/predict", data=form)
    assert response.status_code == 400
    assert response.get_json()["error"]["code"] == code


def test_several_pictures_count_as_several(config: dict[str, Any]) -> None:
    client = create_app(config | {"RATE_LIMIT": "4 per minute"}).test_client()
    three = client.post("/api/v1/predict", data={"image": [picture() for _ in range(3)]})
    assert three.status_code == 200
    assert three.headers["X-RateLimit-Remaining"] == "1"
    refused = client.post("/api/v1/predict", data={"image": [picture(), picture()]})
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0


def test_the_description_lists_every_route_and_field(app: Flask) -> None:
    document = app.test_client().get("/api/openapi.json").get_json()
    described = {
        (method.upper(), f"/api{path}") for path, methods in document["paths"].items() for method in methods
    }
    routes = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/v1/")
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}
    }
    assert described == routes
    handler = (ROOT / "handler" / "api" / "openapi.yaml").read_text()
    for option in set(document["components"]["schemas"]["Form"]["properties"]) - {
        "image",
        "version",
        "review",
    }:
        assert f"{option}:" in handler


def test_the_description_lists_every_error_code(app: Flask) -> None:
    document = app.test_client().get("/api/openapi.json").get_json()
    text = str(document["paths"])
    sources = "".join(path.read_text() for path in (ROOT / "web_client").rglob("*.py"))
    raised = set(re.findall(r'ApiError\(\s*\d+,\s*"(\w+)"', sources)) | set(
        re.findall(r'\d{3}: \("(\w+)"', sources)
    )
    assert len(raised) > 12
    assert {code for code in raised if f"`{code}`" not in text} == {
        "not_found",
        "method_not_allowed",
    }  # of no route


def test_the_manual_is_a_page(client: FlaskClient) -> None:
    page = client.get("/api", headers={"Accept": "text/html"})
    for word in ("POST /api/v1/predict", "score_threshold", "too_many_requests", "openapi.json", "curl"):
        assert word in page.text


def test_the_manual_marks_code_and_escapes_the_rest(client: FlaskClient) -> None:
    page = client.get("/api").text
    assert "<code>too_many_requests</code>" in page
    assert "&lt;code&gt;" not in page
    assert "`" not in page
