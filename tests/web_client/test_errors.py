"""One error shape over every route."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web_client.conftest import assert_error_shape, refusal, send
from tests.web_client.stub import Stub

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("method", "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE".split())
def test_every_route_with_every_method(app: Flask, method: str) -> None:
    """Every response of 400 and above has the shape."""
    paths = {re.sub(r"<.*?>", "missing", rule.rule) for rule in app.url_map.iter_rules()}
    assert len(paths) >= 5
    for path in (*paths, "/nowhere", "/api/nowhere", "/static/../x"):
        response = app.test_client().open(path, method=method)
        if response.status_code >= 400 and method != "HEAD":
            assert_error_shape(response.get_json())
        assert response.headers["X-Request-ID"]
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]


def test_405_names_what_is_allowed(client: FlaskClient) -> None:
    response = client.get("/api/predict")
    refusal(response, 405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


def test_a_person_at_a_wrong_address_gets_the_page(client: FlaskClient) -> None:
    response = client.get("/nowhere", headers=HTML)
    assert response.status_code == 404
    assert "There is nothing at this address" in response.text
    assert "<form" in response.text
    refusal(client.get("/api/nowhere", headers=HTML), 404, "not_found")  # the API answers JSON


def test_rate_limit_counts_both_ways_of_sending(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(RATE_LIMIT="3 per minute")
    paths = ("/api/predict", "/", "/api/v1/predict")
    assert [send(client, path=path).status_code for path in paths] == [200] * 3
    for path in paths:
        assert "Wait a minute" in refusal(send(client, path=path), 429, "too_many_requests")["message"]
    assert client.get("/").status_code == client.get("/api/models").status_code == 200


def test_a_fault_of_ours_shows_nothing_of_itself(app: Flask) -> None:
    def broken() -> None:
        raise RuntimeError("secret of /home/somebody")

    app.add_url_rule("/api/broken", view_func=broken)
    response = app.test_client().get("/api/broken")
    refusal(response, 500, "internal")
    assert "secret" not in response.text


def test_another_site_cannot_send_in_the_visitors_name(client: FlaskClient, stub: Stub) -> None:
    refusal(send(client, headers={"Sec-Fetch-Site": "cross-site"}), 403, "cross_site")
    assert stub.requests == []
