"""POST /api/predict: what is forwarded, what comes back, and the errors when TorchServe fails."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.web_client.stub import Stub, balloon_picture
from web_client.app import create_app


def send(
    client: FlaskClient, data: bytes | None = None, headers: dict[str, str] | None = None, **form: str
) -> TestResponse:
    picture = balloon_picture() if data is None else data
    form_data: dict[str, Any] = {**form, "image": (io.BytesIO(picture), "balloon.png")}
    return client.post("/api/predict", data=form_data, headers=headers)


def test_picture_options_version_and_request_id_are_forwarded(client: FlaskClient, stub: Stub) -> None:
    data = balloon_picture()
    response = send(
        client,
        data,
        {"X-Request-ID": "abc-123"},
        version="resnet50_fpn",
        score_threshold="0.05",
        classes="balloon",
    )
    assert response.status_code == 200
    assert response.headers["X-Request-ID"] == "abc-123"
    (seen,) = stub.requests
    assert seen["bytes"] == data
    assert seen["version"] == "resnet50_fpn"
    assert seen["options"] == {"score_threshold": "0.05", "classes": "balloon"}
    assert seen["id"] == "abc-123"


def test_reply_is_contract_2(client: FlaskClient) -> None:
    reply = send(client, balloon_picture(100, 80, [(50, 40, 20)])).get_json()
    assert reply["image"] == {"width": 100, "height": 80}
    (found,) = reply["instances"]
    assert found["mask"]["size"] == [80, 100]
    assert reply["mask_fraction"] == pytest.approx(found["area"] / 8000)


def test_an_image_output_comes_as_png(client: FlaskClient) -> None:
    response = send(client, output="labels")
    assert response.content_type == "image/png"
    assert response.data.startswith(b"\x89PNG")


@pytest.mark.parametrize("given", ["x" * 65, "a b", "ä", "<script>", ""])
def test_a_strange_request_id_is_replaced(client: FlaskClient, given: str) -> None:
    response = send(client, headers={"X-Request-ID": given})
    assert response.headers["X-Request-ID"] != given
    assert len(response.headers["X-Request-ID"]) == 32


@pytest.mark.parametrize(
    ("mode", "status", "code", "words"),
    [
        ("no_worker", 503, "model_busy", "busy or still starting"),
        ("died_500", 503, "model_restarting", "is restarting"),
        ("died_507", 503, "model_restarting", "is restarting"),
        ("prediction_failed", 503, "model_busy", "busy or still starting"),
        ("broken", 502, "model_failed", "Try again"),
        ("no_room", 503, "out_of_memory", "does not fit now"),
        ("memory", 503, "out_of_memory", "ran out of memory"),
        ("too_large", 413, "image_too_large", "too large"),
        ("refused", 422, "too_many_pixels", "The picture is 9 × 9 pixels."),
        ("html", 502, "odd_answer", "unexpected answer"),
        ("odd", 502, "odd_answer", "unexpected answer"),
        ("break", 503, "model_unreachable", "down or restarting"),
    ],
)
def test_failures_of_torchserve_become_plain_messages(
    client: FlaskClient, stub: Stub, mode: str, status: int, code: str, words: str
) -> None:
    stub.mode = mode
    response = send(client)
    error = response.get_json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert words in error["message"]
    assert "/" not in error["message"]  # neither a path nor a stack trace
    assert status != 503 or int(response.headers["Retry-After"]) > 0
    stub.mode = "ok"
    assert send(client).status_code == 200


def test_a_broken_connection_is_tried_once_more(client: FlaskClient, stub: Stub) -> None:
    stub.mode = "break"
    send(client)
    assert len(stub.requests) == 2


@pytest.mark.parametrize("mode", ["died_500", "died_503", "died_507"])
def test_a_request_lost_with_its_worker_is_sent_once_more(client: FlaskClient, stub: Stub, mode: str) -> None:
    stub.next_mode = mode
    assert send(client, version="resnet50_fpn", score_threshold="0.3").status_code == 200
    first, second = stub.requests
    assert first == second


@pytest.mark.parametrize(
    ("mode", "attempts"),
    [
        *((mode, 2) for mode in ("died_500", "died_507")),
        *((mode, 1) for mode in ("no_worker", "prediction_failed", "broken", "no_room", "refused", "memory")),
    ],
)
def test_only_a_lost_request_is_repeated_and_never_twice(
    client: FlaskClient, stub: Stub, mode: str, attempts: int
) -> None:
    stub.mode = mode
    assert send(client).status_code >= 400
    assert len(stub.requests) == attempts


def test_a_request_that_died_late_is_not_repeated(config: dict[str, Any], stub: Stub) -> None:
    """TorchServe kills a worker that exceeds its time limit; the next one would exceed it, too."""
    stub.mode, stub.delay = "died_500", 0.6
    assert send(create_app(config | {"TIMEOUT": 1.0}).test_client()).status_code == 503
    assert len(stub.requests) == 1


def test_torchserve_is_not_running(config: dict[str, Any]) -> None:
    client = create_app(
        config | {"INFERENCE_URL": "http://127.0.0.1:9", "MANAGEMENT_URL": "http://127.0.0.1:9"}
    ).test_client()
    response = send(client)
    assert response.status_code == 503
    assert response.get_json()["error"]["code"] == "model_unreachable"
    assert response.headers["Retry-After"] == "30"


def test_a_slow_model_is_not_asked_twice(config: dict[str, Any], stub: Stub) -> None:
    stub.delay = 1.0
    response = send(create_app(config | {"TIMEOUT": 0.2}).test_client())
    assert response.status_code == 504
    assert response.get_json()["error"]["code"] == "model_slow"
    assert len(stub.requests) == 1


@pytest.mark.parametrize("version", ["gone_fpn", "../models", "a/b", "x y", "v" * 200])
def test_unknown_version(client: FlaskClient, version: str) -> None:
    response = send(client, version=version)
    assert response.status_code == 404
    assert response.get_json()["error"]["code"] == "unknown_version"
    assert response.get_json()["error"]["field"] == "version"


@pytest.mark.parametrize("name", ["", "\x00"])
def test_an_option_without_a_readable_name_ends_here(client: FlaskClient, name: str) -> None:
    response = send(client, **{name: "1"})
    assert response.status_code == 400
    assert response.get_json()["error"]["code"] == "unknown_option"


def test_no_model_is_loaded(client: FlaskClient, stub: Stub) -> None:
    stub.versions = {}
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.get_json()["error"]["code"] == "no_model"


class TestKeys:
    """TorchServe answers a stale key with a 400, which must not look like a bad picture."""

    def test_a_stale_key_is_renewed_and_the_request_repeated(self, client: FlaskClient, stub: Stub) -> None:
        assert send(client).status_code == 200
        stub.expire_keys()
        assert send(client).status_code == 200
        assert stub.renewals == 1

    def test_a_key_that_the_file_calls_expired_is_renewed_first(
        self, client: FlaskClient, stub: Stub
    ) -> None:
        stub.write_keys(minutes=-1)
        stub.expire_keys()
        assert send(client).status_code == 200
        assert stub.renewals == 1

    def test_a_restarted_torchserve_is_noticed_by_its_new_file(self, client: FlaskClient, stub: Stub) -> None:
        assert send(client).status_code == 200
        stub.keys = {"management": "other-m", "inference": "other-i", "API": "other-a"}
        stub.write_keys()
        assert send(client).status_code == 200
        assert stub.renewals == 0

    def test_a_key_that_cannot_be_renewed_is_the_services_fault(
        self, client: FlaskClient, stub: Stub
    ) -> None:
        stub.expire_keys()
        stub.mode = "no_renewal"
        response = send(client)
        assert response.status_code == 503
        error = response.get_json()["error"]
        assert error["code"] == "service_key"
        assert error["field"] is None
        assert "Your picture is fine" in error["message"]

    @pytest.mark.parametrize(
        "content", [None, "", "{", "[]", '{"inference": 3}', '{"inference": {"expiration time": "soon"}}']
    )
    def test_no_key_file_or_a_broken_one(self, client: FlaskClient, stub: Stub, content: str | None) -> None:
        if content is None:
            stub.key_file.unlink()
        else:
            stub.key_file.write_text(content)
        response = send(client)
        assert response.status_code == 503
        assert response.get_json()["error"]["code"] == "service_key"

    def test_many_requests_with_one_stale_key_renew_it_once(self, app: Flask, stub: Stub) -> None:
        stub.expire_keys()
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: send(app.test_client()).status_code, range(8)))
        assert statuses == [200] * 8
        assert stub.renewals == 1


def test_two_users_see_their_own_pictures(app: Flask, stub: Stub) -> None:
    """A module global for the last upload would show visitors each other's photos."""
    stub.delay = 0.05
    barrier = threading.Barrier(20)

    def visit(number: int) -> tuple[int, int, int]:
        picture = balloon_picture(200 + number, 150, [(60, 70, 10 + number)])
        barrier.wait()
        reply = send(app.test_client(), picture).get_json()
        return number, reply["image"]["width"], reply["instances"][0]["area"]

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(visit, range(20)))
    areas = []
    for number, width, area in results:
        assert width == 200 + number
        areas.append(area)
    assert areas == sorted(areas)
    assert len(set(areas)) == 20


def test_models_are_described_once(client: FlaskClient, stub: Stub) -> None:
    stub.thresholds["resnet50_fpn"] = 0.62
    same = {"classes": ["balloon"], "limits": {"max_image_bytes": 19_000_000, "max_image_pixels": 24_000_000}}
    expected = [
        {"version": name, "backbone": name, "default": default, "segm_AP": ap, "score_threshold": at, **same}
        for name, default, ap, at in (
            ("mobilenetv2_fpn", True, 62.1, 0.5),
            ("resnet50_fpn", False, 77.6, 0.62),
        )
    ]
    for _ in range(3):
        assert client.get("/api/models").get_json() == {"models": expected}
    assert stub.described == 2


def test_health_and_readiness(client: FlaskClient, stub: Stub) -> None:
    assert client.get("/healthz").get_json() == {"status": "ok"}
    assert client.get("/readyz").get_json()["versions"] == ["mobilenetv2_fpn", "resnet50_fpn"]
    stub.mode = "no_worker"
    assert client.get("/readyz").status_code == 503
    assert client.get("/api/models").get_json() == {"models": []}
    assert client.get("/healthz").status_code == 200


def test_key_file_in_another_folder_is_read_late(config: dict[str, Any], stub: Stub, tmp_path: Path) -> None:
    """The web client may be started before TorchServe has written its keys."""
    late = tmp_path / "later" / "key_file.json"
    client = create_app(config | {"KEY_FILE": str(late)}).test_client()
    assert send(client).status_code == 503
    late.parent.mkdir()
    late.write_text(stub.key_file.read_text())
    assert send(client).status_code == 200
