"""What only LitServe's frontend does: it parses forms, queues requests, and starts what takes too long again."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from serve_config.errors import ServeError
from serve_config.litserve.metrics import Metrics
from serve_config.litserve.worker import parts
from serve_config.models.management import versions
from serve_config.server import processes
from serve_config.server.state import Home
from tests.corpus.bodies import MULTIPART, form, part
from tests.torchserve_fixture import TOY_HANDLER, running_torchserve, toy_archive


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("", b"abc", {"body": b"abc"}),
        ("image/jpeg", b"abc", {"body": b"abc"}),
        ("multipart/form-data", b"abc", {"body": b"abc"}),  # without a boundary
        (MULTIPART, form(part("image", b"\xff\r\n", '; filename="a"'), part("output", b"coco")),
         {"image": b"\xff\r\n", "output": b"coco"}),
        (MULTIPART, form(part("a", b"1"), part("a", b"2")), {"a": b"2"}),
        (MULTIPART, form(part("a", b"1"))[:-20], {}),  # cut
        (MULTIPART, b"no form", {}),
        (MULTIPART, b"", {}),
    ],
)  # fmt: skip
def test_parts_of_a_request(content_type: str, body: bytes, expected: dict[str, bytes]) -> None:
    assert parts(body, content_type) == expected


def test_without_litserve_the_message_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ServeError, match=r"pip install 'litserve"):
        processes.litserve_command(Home.at(tmp_path), tmp_path)


def test_the_metrics_page_is_what_prometheus_reads() -> None:
    metrics = Metrics()
    for value in (1234567, 1):
        metrics.add("ts_queue_latency_microseconds", value, ["maskrcnn", "alpha"])
    metrics.add("maskrcnn_batch_seconds", 0.3, ["alpha"])
    metrics.measure_machine()
    families = {family.name: family for family in text_string_to_metric_families(metrics.page())}
    (sample,) = families["ts_queue_latency_microseconds"].samples
    assert (sample.value, sample.labels["model_version"]) == (1234568, "alpha")
    buckets = {
        s.labels["le"]: s.value for s in families["maskrcnn_batch_seconds"].samples if "le" in s.labels
    }
    assert (buckets["0.25"], buckets["0.5"], buckets["+Inf"]) == (0, 1, 1)
    assert 0 < families["MemoryUtilization"].samples[0].value <= 100
    assert families["maskrcnn_requests"].samples == []


@pytest.mark.e2e
def test_a_full_queue_is_a_503_and_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    archive = toy_archive(tmp_path, "alpha", handler=f"import time\ntime.sleep(1)\n{TOY_HANDLER}")
    limits = {"job_queue_size": 1, "response_timeout": 3}
    with running_torchserve(tmp_path, [archive], engine="litserve", **limits) as server:

        def ask(body: bytes) -> requests.Response:
            return server.client.request("inference", "POST", "/predictions/maskrcnn", data=body)

        with ThreadPoolExecutor(4) as pool:
            answers = sorted(pool.map(ask, [b"sleep:1"] * 4), key=lambda answer: answer.status_code)
        assert [answer.status_code for answer in answers] == [200, 200, 503, 503]
        assert answers[3].json()["type"] == "ServiceUnavailableException"
        assert answers[3].headers["Retry-After"] == "1"

        (before,) = versions(server.client)
        start = time.monotonic()
        answer = ask(b"sleep:600")
        assert (answer.status_code, answer.json()["message"]) == (507, "Worker died.")
        assert 3 <= time.monotonic() - start < 10
        assert ask(b"abc").json()["bytes"] == 3, "it waits for the new worker"
        (after,) = versions(server.client)
        assert before.workers[0]["pid"] != after.workers[0]["pid"]
        os.kill(after.workers[0]["pid"], signal.SIGKILL)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(ask, b"abc") for _ in range(2)]
            time.sleep(0.5)
            server.client.json("management", "DELETE", "/models/maskrcnn/alpha")
            assert {call.result().status_code for call in waiting} == {507}, "nobody waits for what is gone"
