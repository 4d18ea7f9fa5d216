"""One error shape over every route."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web_client.stub import Stub, balloon_picture
from web_client.app import create_app

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def assert_error_shape(body: Any) -> None:
    assert list(body) == ["error"]
    assert set(body["error"]) == {"code", "message", "field"}
    assert re.fullmatch(r"[a-z_]+", body["error"]["code"])
    assert re.fullmatch(r"[A-Z].*\.", body["error"]["message"], re.S)


@pytest.mark.parametrize("method", METHODS)
def test_every_route_with_every_method(app: Flask, method: str) -> None:
    """Every response of 400 and above has the shape."""
    paths = {re.sub(r"<.*?>", "missing", rule.rule) for rule in app.url_map.iter_rules()} | {
        "/nowhere",
        "/api/nowhere",
        "/static/../x",
    }
    assert len(paths) >= 8
    for path in paths:
        response = app.test_client().open(path, method=method)
        if response.status_code >= 400 and method != "HEAD":
            assert_error_shape(response.get_json())
        assert response.headers["X-Request-ID"]
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]


def test_405_names_what_is_allowed(client: FlaskClient) -> None:
    response = client.get("/api/predict")
    assert response.status_code == 405
    assert response.get_json()["error"]["code"] == "method_not_allowed"
    assert "POST" in response.headers["Allow"]


def test_a_person_at_a_wrong_address_gets_the_page(client: FlaskClient) -> None:
    response = client.get("/nowhere", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert response.status_code == 404
    assert "There is nothing at this address" in response.text
    assert "<form" in response.text


def test_the_api_answers_json_even_to_a_browser(client: FlaskClient) -> None:
    response = client.get("/api/nowhere", headers={"Accept": "text/html"})
    assert_error_shape(response.get_json())


def test_rate_limit_counts_both_ways_of_sending(config: dict[str, Any], stub: Stub) -> None:
    client = create_app(config | {"RATE_LIMIT": "3 per minute"}).test_client()

    def send(path: str) -> Any:
        return client.post(path, data={"image": (io.BytesIO(balloon_picture()), "a.png")})

    assert [send(path).status_code for path in ("/api/predict", "/", "/api/predict")] == [200, 200, 200]
    for path in ("/api/predict", "/"):
        response = send(path)
        assert response.status_code == 429
        assert_error_shape(response.get_json())
        assert "Wait a minute" in response.get_json()["error"]["message"]
        assert int(response.headers["Retry-After"]) > 0
    assert client.get("/").status_code == 200
    assert client.get("/api/models").status_code == 200


def test_a_fault_of_ours_shows_nothing_of_itself(config: dict[str, Any]) -> None:
    app = create_app(config)

    def broken() -> None:
        raise RuntimeError("secret of /home/somebody")

    app.add_url_rule("/api/broken", view_func=broken)
    response = app.test_client().get("/api/broken")
    assert response.status_code == 500
    assert_error_shape(response.get_json())
    assert "secret" not in response.text


def test_another_site_cannot_send_in_the_visitors_name(client: FlaskClient, stub: Stub) -> None:
    form = {"image": (io.BytesIO(balloon_picture()), "a.png")}
    response = client.post("/api/predict", data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert response.status_code == 403
    assert_error_shape(response.get_json())
    assert stub.requests == []
