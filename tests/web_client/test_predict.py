"""POST /api/v1/predict: what is forwarded, what comes back, and the errors when TorchServe fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web_client.conftest import refusal, send
from tests.web_client.stub import Stub, balloon_picture


def test_picture_options_version_and_request_id_are_forwarded(client: FlaskClient, stub: Stub) -> None:
    data, options = balloon_picture(), {"score_threshold": "0.05", "classes": "balloon"}
    response = send(client, data, headers={"X-Request-ID": "abc-123"}, version="resnet50_fpn", **options)
    assert response.status_code == 200
    assert response.headers["X-Request-ID"] == "abc-123"
    assert stub.requests == [{"version": "resnet50_fpn", "options": options, "id": "abc-123", "bytes": data}]


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
    answered = send(client, headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert answered != given
    assert len(answered) == 32


@pytest.mark.parametrize(
    ("mode", "status", "code", "words", "attempts"),
    [
        ("no_worker", 503, "model_busy", "busy or still starting", 1),
        ("died_500", 503, "model_restarting", "is restarting", 2),
        ("died_507", 503, "model_restarting", "is restarting", 2),
        ("prediction_failed", 503, "model_busy", "busy or still starting", 1),
        ("broken", 502, "model_failed", "Try again", 1),
        ("no_room", 503, "out_of_memory", "does not fit now", 1),
        ("memory", 503, "out_of_memory", "ran out of memory", 1),
        ("too_large", 413, "image_too_large", "too large", 1),
        ("refused", 422, "too_many_pixels", "The picture is 9 × 9 pixels.", 1),
        ("html", 502, "odd_answer", "unexpected answer", 1),
        ("odd", 502, "odd_answer", "unexpected answer", 1),
        ("break", 503, "model_unreachable", "down or restarting", 2),
    ],
)
def test_failures_of_torchserve_become_plain_messages(
    client: FlaskClient, stub: Stub, mode: str, status: int, code: str, words: str, attempts: int
) -> None:
    """Only a request that was lost is repeated, and never twice."""
    stub.mode = mode
    message = refusal(send(client), status, code)["message"]
    assert words in message
    assert "/" not in message  # neither a path nor a stack trace
    assert len(stub.requests) == attempts
    stub.mode = "ok"
    assert send(client).status_code == 200


@pytest.mark.parametrize("mode", ["died_500", "died_503", "died_507"])
def test_a_request_lost_with_its_worker_is_sent_once_more(client: FlaskClient, stub: Stub, mode: str) -> None:
    stub.next_mode = mode
    assert send(client, version="resnet50_fpn", score_threshold="0.3").status_code == 200
    first, second = stub.requests
    assert first == second


def test_a_request_that_died_late_is_not_repeated(
    make_client: Callable[..., FlaskClient], stub: Stub
) -> None:
    """TorchServe kills a worker that exceeds its time limit; the next one would exceed it, too."""
    stub.mode, stub.delay = "died_500", 0.6
    refusal(send(make_client(TIMEOUT=1.0)), 503, "model_restarting")
    assert len(stub.requests) == 1


def test_torchserve_is_not_running(make_client: Callable[..., FlaskClient]) -> None:
    nobody = "http://127.0.0.1:9"
    refusal(send(make_client(INFERENCE_URL=nobody, MANAGEMENT_URL=nobody)), 503, "model_unreachable")


def test_a_slow_model_is_not_asked_twice(make_client: Callable[..., FlaskClient], stub: Stub) -> None:
    stub.delay = 1.0
    refusal(send(make_client(TIMEOUT=0.2)), 504, "model_slow")
    assert len(stub.requests) == 1


@pytest.mark.parametrize("version", ["gone_fpn", "../models", "a/b", "x y", "v" * 200])
def test_unknown_version(client: FlaskClient, version: str) -> None:
    assert refusal(send(client, version=version), 404, "unknown_version")["field"] == "version"


@pytest.mark.parametrize("name", ["", "\x00"])
def test_an_option_without_a_readable_name_ends_here(client: FlaskClient, name: str) -> None:
    refusal(send(client, **{name: "1"}), 400, "unknown_option")


class TestKeys:
    """TorchServe answers a stale key with a 400, which must not look like a bad picture."""

    def test_a_stale_key_is_renewed_and_the_request_repeated(self, client: FlaskClient, stub: Stub) -> None:
        for renewals in (0, 1):
            assert send(client).status_code == 200
            assert stub.renewals == renewals
            stub.expire_keys()

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
        error = refusal(send(client), 503, "service_key")
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
        refusal(send(client), 503, "service_key")

    def test_many_requests_with_one_stale_key_renew_it_once(self, app: Flask, stub: Stub) -> None:
        stub.expire_keys()
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: send(app.test_client()).status_code, range(8)))
        assert statuses == [200] * 8
        assert stub.renewals == 1

    def test_the_file_may_come_after_the_web_client(
        self, make_client: Callable[..., FlaskClient], stub: Stub, tmp_path: Path
    ) -> None:
        late = tmp_path / "later" / "key_file.json"
        client = make_client(KEY_FILE=str(late))
        refusal(send(client), 503, "service_key")
        late.parent.mkdir()
        late.write_text(stub.key_file.read_text())
        assert send(client).status_code == 200


def test_two_users_see_their_own_pictures(app: Flask, stub: Stub) -> None:
    """A module global for the last upload would show visitors each other's photos."""
    stub.delay = 0.05
    barrier = threading.Barrier(20)

    def visit(number: int) -> tuple[int, int]:
        picture = balloon_picture(200 + number, 150, [(60, 70, 10 + number)])
        barrier.wait()
        reply = send(app.test_client(), picture).get_json()
        return reply["image"]["width"], reply["instances"][0]["area"]

    with ThreadPoolExecutor(20) as pool:
        widths, areas = zip(*pool.map(visit, range(20)), strict=True)
    assert widths == tuple(range(200, 220))
    assert list(areas) == sorted(set(areas))


def test_models_are_described_once(client: FlaskClient, stub: Stub) -> None:
    stub.thresholds["resnet50_fpn"] = 0.62
    same = {"classes": ["balloon"], "limits": {"max_image_bytes": 19_000_000, "max_image_pixels": 24_000_000}}
    first, second = ("mobilenetv2_fpn", True, 62.1, 0.5), ("resnet50_fpn", False, 77.6, 0.62)
    expected = [
        {"version": name, "backbone": name, "default": default, "segm_AP": ap, "score_threshold": at, **same}
        for name, default, ap, at in (first, second)
    ]
    for _ in range(3):
        assert client.get("/api/models").get_json() == {"models": expected}
    assert stub.described == 2


def test_health_and_readiness(client: FlaskClient, stub: Stub) -> None:
    assert client.get("/healthz").get_json() == {"status": "ok"}
    assert client.get("/readyz").get_json()["versions"] == ["mobilenetv2_fpn", "resnet50_fpn"]
    stub.mode = "no_worker"
    refusal(client.get("/readyz"), 503, "no_model")
    assert client.get("/api/models").get_json() == {"models": []}
    assert client.get("/healthz").status_code == 200
    stub.mode, stub.versions = "ok", {}
    refusal(client.get("/readyz"), 503, "no_model")
