"""The contract over HTTP: the real TorchServe, the real handler, a tiny random model."""

from __future__ import annotations

import base64
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import requests
from PIL import Image
from pycocotools import mask as coco_mask

from tests.handler import awkward
from tests.handler.api.test_openapi import validator
from tests.handler.awkward import save
from tests.torchserve_fixture import RunningTorchServe
from tests.toy_models import photo

pytestmark = pytest.mark.e2e

PATH = "/predictions/maskrcnn"
JPEG = save(Image.fromarray(photo(120, 160)), "JPEG", quality=95)
JSON = {"Content-Type": "application/json"}


def ask(
    served: RunningTorchServe, method: str = "POST", path: str = PATH, **request: Any
) -> requests.Response:
    key, _ = served.client.read_key("inference")
    headers = request.pop("headers", {}) | {"Authorization": f"Bearer {key}"}
    url = served.client.url("inference", path)
    return requests.request(method, url, headers=headers, **{"timeout": 60} | request)


def predict(served: RunningTorchServe, **fields: object) -> requests.Response:
    return ask(served, files={"image": JPEG}, data=fields)


def batches(served: RunningTorchServe) -> tuple[float, float]:
    """Batches and requests so far, from the metrics port."""
    page = served.client.metrics()
    count, total = (re.search(rf"maskrcnn_batch_size_{what}{{.*}} (.*)", page) for what in ("count", "sum"))
    return (float(count[1]), float(total[1])) if count and total else (0.0, 0.0)


def test_every_body_gets_the_same_answer(served: RunningTorchServe) -> None:
    text = base64.b64encode(JPEG).decode()
    answers = [
        ask(served, "PUT", data=JPEG),
        ask(served, "POST", data=JPEG, headers={"Content-Type": "image/jpeg"}),
        ask(served, files={"image": ("photo.jpg", JPEG, "image/jpeg")}),
        ask(served, files={"data": JPEG}),
        ask(served, json={"image": text}),
        ask(served, json={"image": f"data:image/jpeg;base64,{text}", "options": {"mask_format": "rle"}}),
        ask(served, path=f"{PATH}/mobilenetv2_fpn", json={"image": text}),
    ]
    documents = []
    for answer in answers:
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json"), answer.text
        documents.append(answer.json())
        validator("Prediction").validate(documents[-1])
    assert len(documents[0]["instances"]) > 0
    assert all(document["instances"] == documents[0]["instances"] for document in documents)
    for instance in documents[0]["instances"]:
        assert coco_mask.decode(instance["mask"]).sum() == instance["area"]


@pytest.mark.parametrize("output", ["overlay", "splash", "labels"])
def test_pictures_come_as_png(served: RunningTorchServe, output: str) -> None:
    answer = predict(served, output=output)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    pixels = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.shape[:2] == (120, 160)


def test_options_count(served: RunningTorchServe) -> None:
    def found(**options: str) -> list[tuple[float, str]]:
        return [(i["score"], i["class_name"]) for i in predict(served, **options).json()["instances"]]

    everything = found()
    assert len(everything) > 2
    assert found(max_detections="2") == everything[:2]
    assert found(score_threshold="0.5") == [one for one in everything if one[0] >= 0.5]
    for name in {name for _, name in everything}:
        assert {kept for _, kept in found(classes=name)} == {name}
    assert isinstance(predict(served, output="coco").json(), list)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"data": b"junk"}, 415, "unsupported_media_type"),
        ({"data": JPEG[:2000]}, 400, "undecodable_image"),
        ({"data": awkward.bomb("PNG")}, 422, "too_many_pixels"),
        ({"data": b"\xff\xd8\xff" + bytes(3_000_000)}, 413, "image_too_large"),
        ({"data": b""}, 400, "missing_image"),
        ({"data": b"[" * 100_000, "headers": JSON}, 400, "invalid_json"),
        ({"json": {"image": "?"}}, 400, "invalid_base64"),
        ({"data": {"image": "x"}}, 415, "unsupported_media_type"),
        ({"files": {"photo": JPEG}}, 400, "missing_image"),
        ({"files": {"image": JPEG}, "data": {"score_threshold": "nan"}}, 400, "invalid_option"),
        ({"files": {"image": JPEG}, "data": {"classes": "dog"}}, 400, "unknown_class"),
        ({"data": JPEG, "headers": {"Content-Type": "multipart/form-data"}}, 400, "invalid_form"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_refusals(served: RunningTorchServe, request_: dict[str, Any], status: int, code: str) -> None:
    answer = ask(served, **request_)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json"), answer.text
    validator("Error").validate(answer.json())
    assert answer.json()["error"]["code"] == code
    assert not re.search(r"/(tmp|usr|home|work)|Traceback|\.py", answer.text)


def test_an_answer_that_would_kill_the_worker_is_refused(served: RunningTorchServe) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1500, 3), dtype=np.uint8)
    loud = save(Image.fromarray(noise), "JPEG", quality=50)
    answer = ask(served, files={"image": loud}, data={"output": "overlay"}, timeout=120)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "response_too_large")
    assert predict(served).status_code == 200


def test_a_request_without_a_key_is_refused(served: RunningTorchServe) -> None:
    answer = requests.post(served.client.url("inference", PATH), data=JPEG, timeout=30)
    assert answer.status_code == 400
    validator("TorchServeError").validate(answer.json())


def test_one_bad_request_of_a_batch_harms_no_other(served: RunningTorchServe) -> None:
    """Four requests at a time fall into one batch: two sizes of picture, one broken, one wrong option."""
    tall = save(Image.fromarray(photo(200, 90)), "PNG")
    asked: list[dict[str, Any]] = [
        {"data": JPEG},
        {"data": JPEG[:1000]},
        {"data": tall},
        {"files": {"image": JPEG}, "data": {"output": "xml"}},
    ]
    alone = [ask(served, **request) for request in asked]
    before = batches(served)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = list(pool.map(lambda request: ask(served, **request), asked))
            assert [answer.status_code for answer in together] == [200, 400, 200, 400]
            for one, same in zip(alone, together, strict=True):
                assert one.json().get("instances") == same.json().get("instances")
                assert one.json().get("error") == same.json().get("error")
    wait_for_metrics(served, before[1] + 20)
    after = batches(served)
    assert after[1] - before[1] == 20
    assert after[0] - before[0] < 20  # some of them did travel together


def wait_for_metrics(served: RunningTorchServe, requests_: float) -> None:
    """The worker's metrics go through its log, a moment behind its answers."""
    deadline = time.monotonic() + 10
    while batches(served)[1] < requests_ and time.monotonic() < deadline:
        time.sleep(0.1)


def test_metrics_are_there_by_version(served: RunningTorchServe) -> None:
    from handler.api.metrics import METRICS

    predict(served, output="xml")
    predict(served)
    wait_for_metrics(served, batches(served)[1] + 1)
    page = served.client.metrics()
    for metric in METRICS:
        assert re.search(rf'^{metric.name}(_count)?{{.*version="mobilenetv2_fpn"', page, re.MULTILINE), (
            metric.name
        )
    assert re.search(r'maskrcnn_requests_total{.*outcome="refused",reason="invalid_option".*} \d', page)


def test_the_description_has_what_a_client_needs(served: RunningTorchServe) -> None:
    (model,) = served.client.json("management", "GET", "/models/maskrcnn?customized=true")
    card = model["customizedMetadata"]
    assert card["classes"] == ["balloon", "kite"]
    limits = {"max_image_bytes": 3_000_000, "max_image_pixels": 2_000_000, "max_response_bytes": 4_000_000}
    assert card["limits"].items() >= limits.items()
    assert {o["name"]: o["default"] for o in card["options"]}["score_threshold"] == 0.05
    assert re.fullmatch("[0-9a-f]{64}", card["model"]["weights_sha256"])
    assert card["running"]["engine"] == "torch"


def test_a_hundred_requests_leave_no_file_open(served: RunningTorchServe) -> None:
    (model,) = served.client.json("management", "GET", "/models/maskrcnn")
    worker = psutil.Process(model["workers"][0]["pid"])

    def work(i: int) -> int:
        return ask(served, data=(JPEG, JPEG[:1000], b"junk", awkward.animation("GIF"))[i % 4]).status_code

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
        before = worker.num_fds()
        assert set(pool.map(work, range(100))) == {200, 400, 415}
    assert worker.num_fds() <= before


def test_the_log_names_the_request_but_shows_no_body(served: RunningTorchServe) -> None:
    answer = predict(served, output="log-me-not")
    request_id = answer.headers["x-request-id"]
    logs = "".join(path.read_text(errors="replace") for path in (served.home.path / "logs").glob("*.log"))
    assert request_id in logs
    assert "log-me-not" not in logs
    assert json.loads(answer.text)["error"]["field"] == "output"
