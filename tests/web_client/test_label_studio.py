"""The ML backend for Label Studio, with a stand-in that hands out pictures as the real one does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from tests.web_client.conftest import ask_tools, assert_error_shape
from tests.web_client.stub import Stub, balloon_picture, find_balloons
from web_client.api import label_studio
from web_client.app import create_app
from web_client.errors import WebClientError
from web_client.server.tokens import TokenFile

PHOTO = balloon_picture(300, 200, [(80, 100, 40), (200, 100, 30)])
UPLOAD = "/data/upload/1/0123abcd-photo.png"
CONFIG = """<View><Image name="img" value="$photo"/>
  <{0} name="tag" toName="img"><Label value="Balloon"/><Label value="cup"/></{0}></View>"""
INTERFACE = CONFIG.format("PolygonLabels")


class Studio(ThreadingHTTPServer):
    """``files`` by path; ``seen`` are the paths and keys of all requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Studio)
        self.files = {UPLOAD: PHOTO, "/api/secrets": PHOTO}
        self.seen: list[tuple[str, str | None]] = []
        self.exchanges = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Studio(BaseHTTPRequestHandler):
    server: Studio

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url + UPLOAD)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        key = self.headers.get("Authorization")
        self.server.seen.append((self.path, key))
        if key not in ("Token legacy", f"Bearer access{self.server.exchanges}"):
            self.answer(401)
        elif self.path == "/data/elsewhere.png":
            self.answer(302)
        else:
            self.answer(200 if self.path in self.server.files else 404, self.server.files.get(self.path, b""))

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        right = self.path == "/api/token/refresh/" and sent == {"refresh": "a.personal.token"}
        self.server.exchanges += right
        self.answer(200 if right else 401, json.dumps({"access": f"access{self.server.exchanges}"}).encode())


@pytest.fixture
def studio() -> Iterator[Studio]:
    with Studio() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(config: dict[str, Any], studio: Studio, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "legacy")
    return config | {"LABEL_STUDIO": studio.url + "/"}


@pytest.fixture
def client(settings: dict[str, Any]) -> FlaskClient:
    return create_app(settings).test_client()


def predict(client: FlaskClient, *addresses: object, config: str = INTERFACE) -> list[dict[str, Any]]:
    tasks = [{"id": i, "data": {"photo": address}} for i, address in enumerate(addresses)]
    response = client.post("/label-studio/predict", json={"tasks": tasks, "label_config": config})
    assert response.status_code == 200
    results: list[dict[str, Any]] = response.get_json()["results"]
    return results


def test_connecting(client: FlaskClient) -> None:
    for path in ("/label-studio/", "/label-studio/health"):
        assert client.get(path).get_json()["status"] == "UP"
    body = {"project": "1.2", "schema": INTERFACE, "hostname": "http://elsewhere", "access_token": "x"}
    assert client.post("/label-studio/setup", json=body).get_json() == {"model_version": "mobilenetv2_fpn"}


def test_outlines_are_polygons_in_percent(client: FlaskClient, studio: Studio) -> None:
    (prediction,) = predict(client, UPLOAD)
    _, instances = find_balloons(PHOTO)
    assert prediction["model_version"] == "mobilenetv2_fpn"
    assert prediction["score"] == instances[-1]["score"]
    assert len(prediction["result"]) == len(instances) == 2
    for region, instance in zip(prediction["result"], instances, strict=True):
        assert (region["type"], region["from_name"], region["to_name"]) == ("polygonlabels", "tag", "img")
        assert (region["original_width"], region["original_height"]) == (300, 200)
        assert region["value"]["polygonlabels"] == ["Balloon"]
        points = np.array(region["value"]["points"]) * (3, 2)
        assert [*points.min(0), *points.max(0)] == pytest.approx(instance["box"])
    assert studio.seen == [(UPLOAD, "Token legacy")]


def test_label_studios_own_package_reads_it(client: FlaskClient) -> None:
    predictions = predict(client, UPLOAD)
    assert ask_tools("label_studio", config=INTERFACE, predictions=predictions) == [[]]


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "{url}.evil.example/data/a.png",
        "{url}@evil.example/data/a.png",
        "//evil.example/data/a.png",
        "file:///etc/passwd",
        "/api/secrets",
        "/data/../api/secrets",
        "/data/%2e%2e/api/secrets",
        "s3://bucket/a.png",
        "",
        None,
        {"url": UPLOAD},
    ],
)
def test_nothing_else_is_fetched(client: FlaskClient, studio: Studio, stub: Stub, address: object) -> None:
    address = address.format(url=studio.url) if isinstance(address, str) else address
    refused, answered = predict(client, address, UPLOAD)
    assert_error_shape(refused)
    assert refused["error"]["code"] == "missing_image"
    assert len(answered["result"]) == 2
    assert [path for path, _ in studio.seen] == [UPLOAD]
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    ("path", "file", "code"),
    [
        ("/data/gone.png", b"", "missing_image"),
        ("/data/elsewhere.png", b"", "missing_image"),
        ("/data/text.png", b"no picture", "unsupported_media_type"),
        ("/data/large.png", b"0" * 300_000, "image_too_large"),
    ],
)
def test_a_picture_that_cannot_be_had_spoils_no_other(
    settings: dict[str, Any], studio: Studio, path: str, file: bytes, code: str
) -> None:
    if file:
        studio.files[path] = file
    client = create_app(settings | {"MAX_BYTES": 200_000}).test_client()
    refused, answered = predict(client, path, studio.url + UPLOAD)
    assert refused["error"]["code"] == code
    assert len(answered["result"]) == 2


def test_an_unreachable_label_studio_is_named(settings: dict[str, Any], stub: Stub) -> None:
    client = create_app(settings | {"LABEL_STUDIO": "http://127.0.0.1:9"}).test_client()
    (refused,) = predict(client, UPLOAD)
    assert "http://127.0.0.1:9 does not answer" in refused["error"]["message"]


def test_a_personal_access_token_is_exchanged_until_that_expires(
    settings: dict[str, Any], studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "a.personal.token")
    client = create_app(settings).test_client()
    assert all(each["result"] for each in predict(client, UPLOAD, UPLOAD))
    assert studio.seen == [(UPLOAD, "Bearer access1")] * 2
    studio.exchanges += 1  # as if minutes had passed
    (prediction,) = predict(client, UPLOAD)
    assert prediction["result"]
    assert [key for _, key in studio.seen[2:]] == ["Bearer access1", "Bearer access3"]
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "an.expired.token")
    (refused,) = predict(create_app(settings).test_client(), UPLOAD)
    assert "check LABEL_STUDIO_API_KEY" in refused["error"]["message"]


def test_a_batch_ends_before_label_studio_gives_up(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_studio, "SECONDS", -1)
    assert [each["error"]["code"] for each in predict(client, UPLOAD, UPLOAD)] == ["model_busy"] * 2
    monkeypatch.undo()
    monkeypatch.setattr(label_studio, "MAX_TASKS", 1)
    predicted, late = predict(client, UPLOAD, UPLOAD)
    assert predicted["result"]
    assert late["error"]["code"] == "model_busy"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("setup", {"schema": "<View/>"}),
        ("setup", {"schema": CONFIG.format("BrushLabels")}),
        ("setup", {"schema": "<View"}),
        ("setup", {"schema": f"<!--{'x' * 100_000}-->{INTERFACE}"}),
        ("setup", {"schema": "<View>\ud800</View>"}),
        ("setup", []),
        ("predict", {"tasks": [1], "label_config": INTERFACE}),
        ("predict", {"tasks": {}, "label_config": INTERFACE}),
        ("predict", {"tasks": []}),
    ],
)
def test_what_is_not_label_studios_is_refused(client: FlaskClient, path: str, body: object) -> None:
    response = client.post(f"/label-studio/{path}", json=body)
    assert response.status_code == 400
    assert_error_shape(response.get_json())


def test_labels_that_the_project_lacks(client: FlaskClient) -> None:
    """Label Studio refuses a whole batch for one label that it does not know."""
    (refused,) = predict(client, UPLOAD, config=INTERFACE.replace("Balloon", "mug"))
    assert "no label for what was found: balloon" in refused["error"]["message"]
    (aliased,) = predict(client, UPLOAD, config=INTERFACE.replace('"Balloon"', '"balloon" alias="b"'))
    assert aliased["result"][0]["value"]["polygonlabels"] == ["b"]


def test_it_is_off_by_default_and_needs_a_key(
    config: dict[str, Any], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert create_app(config).test_client().get("/label-studio/health").status_code == 404
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    with pytest.raises(WebClientError, match="set LABEL_STUDIO_API_KEY"):
        create_app(settings)


def test_a_token_is_the_password(settings: dict[str, Any], tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    secret = tokens.add("studio")
    client = create_app(settings | {"TOKEN_FILE": str(tokens.path)}).test_client()

    def status(path: str, password: str) -> int:
        basic = base64.b64encode(f"any:{password}".encode()).decode()
        return client.get(path, headers={"Authorization": f"Basic {basic}"}).status_code

    assert status("/label-studio/health", secret) == 200
    assert status("/label-studio/health", "wrong") == 401
    assert status("/api/v1/models", secret) == 401  # only where Label Studio asks
    assert client.get("/label-studio/health").status_code == 401


def test_each_task_counts_as_a_picture(settings: dict[str, Any]) -> None:
    client = create_app(settings | {"RATE_LIMIT": "3 per minute"}).test_client()
    body = {"tasks": [{"data": {}}] * 2, "label_config": INTERFACE}
    statuses = [client.post("/label-studio/predict", json=body).status_code for _ in range(2)]
    assert statuses == [200, 429]
