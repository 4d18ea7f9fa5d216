"""The handler, called as TorchServe's worker calls it: its loader, its Context, its Service."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import socket
import struct
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from handler import maskrcnn_handler
from handler.api.metrics import METRICS
from handler.errors import DeviceError, SettingsError
from handler.maskrcnn_handler import MaskRCNNHandler
from tests.handler.awkward import corners, save
from tests.handler.toys import CARD, FakePredictor

with warnings.catch_warnings():  # TorchServe 0.12 leaves files to the garbage collector
    warnings.simplefilter("ignore", ResourceWarning)
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import ModelLoaderFactory
    from ts.service import Service
    from ts.utils.util import list_classes_from_module

JPEG = save(corners(), "JPEG")
METRICS_YAML = Path(__file__).parents[2] / "serve_config" / "templates" / "metrics.yaml"


def metrics_cache() -> MetricsCacheYamlImpl:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        cache = MetricsCacheYamlImpl(str(METRICS_YAML))
        cache.initialize_cache()
    cache.model_name = "maskrcnn"
    return cache


class Worker:
    """TorchServe's worker without its socket: messages in, decoded responses out."""

    def __init__(self, folder: Path, config: dict[str, Any] | None = None, gpu: int | None = None) -> None:
        (folder / "model-config.yaml").write_text(
            yaml.safe_dump(config or {"handler": {"warmup": [[32, 48]]}})
        )
        manifest = {"model": {"configFile": "model-config.yaml", "modelVersion": "toy"}}
        self.handler = MaskRCNNHandler()
        self.service = Service(
            "maskrcnn", str(folder), manifest, self.handler.handle, gpu, 8, metrics_cache=metrics_cache()
        )
        self.service.set_cl_socket(None)
        self.handler.initialize(self.service.context)

    def ask(self, *batch: dict[str, Any]) -> list[dict[str, Any]]:
        return decode_response(self.service.predict(list(batch)))


def message(
    *parameters: tuple[str, str, object], headers: dict[str, str] | None = None, request_id: str = "id"
) -> dict[str, Any]:
    """A request as ``ts.protocol.otf_message_handler`` reads it from the socket."""
    return {
        "requestId": request_id.encode(),
        "headers": [
            {"name": name.encode(), "value": value.encode()}
            for name, value in {"url_path": "", "explain": "False", **(headers or {})}.items()
        ],
        "parameters": [{"name": n, "contentType": kind, "value": value} for n, kind, value in parameters],
    }


def raw(body: object, content_type: str = "image/jpeg", **kwargs: Any) -> dict[str, Any]:
    return message(("body", content_type, body), headers={"CONTENT-Type": content_type}, **kwargs)


def decode_response(wire: bytearray) -> list[dict[str, Any]]:
    """The inverse of ``create_predict_response``."""
    at = 0

    def number() -> int:
        nonlocal at
        at += 4
        return struct.unpack("!i", wire[at - 4 : at])[0]

    def field(length: int) -> bytes:
        nonlocal at
        at += length
        return bytes(wire[at - length : at])

    assert number() == 200, "the batch failed as a whole"
    field(number())
    answers = []
    while (length := number()) >= 0:
        answer: dict[str, Any] = {"id": field(length).decode(), "type": field(number()).decode()}
        answer |= {"status": number(), "phrase": field(number()).decode()}
        answer["headers"] = {field(number()).decode(): field(number()).decode() for _ in range(number())}
        answer["body"] = field(number())
        answers.append(answer)
    return answers


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    """Stands in for ``handler.model.predictor``; remembers how it was loaded."""
    fake = FakePredictor(2)
    module = types.ModuleType("handler.model.predictor")

    def load(folder: Path, **settings: Any) -> FakePredictor:
        fake.card["loaded"] = {"folder": folder, **settings}
        return fake

    module.Predictor = types.SimpleNamespace(load=load)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "handler.model.predictor", module)
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "archive.json").write_text(json.dumps(CARD))
    return tmp_path


def test_the_module_holds_exactly_one_class() -> None:
    """TorchServe's loader refuses two, and prefers a function called handle to any."""
    assert list_classes_from_module(maskrcnn_handler) == [MaskRCNNHandler]
    assert not hasattr(maskrcnn_handler, "handle")


def test_importing_the_module_imports_nothing_of_ours() -> None:
    """The archive's own packages must come first on sys.path before any of them is imported."""
    source = Path(maskrcnn_handler.__file__).read_text()
    assert "\nfrom handler" not in source
    assert "\nimport handler" not in source


def test_initialize_passes_the_configuration_on(predictor: FakePredictor, folder: Path) -> None:
    given = {"precision": "fp32", "engine": "torch", "threads": 3}
    Worker(folder, {"maxWorkers": 1, "batchSize": 4, "handler": {**given, "warmup": [[16, 20]]}})
    assert predictor.card["loaded"] == {"folder": folder, "device": "cpu", "cuda_graphs": False, **given}
    assert sys.path[0] == str(folder)
    assert predictor.batches == [[(16, 20, 3)]]
    assert predictor.warmed == [((16, 20, 3), 4)]


def test_workers_share_the_cores(
    predictor: FakePredictor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.model.cores.usable_cores", lambda: 8)
    for workers, threads in ((1, 8), (3, 2), (20, 1)):
        Worker(folder, {"minWorkers": 1, "maxWorkers": workers})
        assert predictor.card["loaded"]["threads"] == threads
    Worker(folder, {"handler": {"warmup": []}})
    assert predictor.card["loaded"]["threads"] == 8, "an archive that does not say has one worker"
    monkeypatch.setenv("MASKRCNN_WORKERS", "4")
    Worker(folder, {"maxWorkers": 1})
    assert predictor.card["loaded"]["threads"] == 2, "the server's number of workers wins"
    for wrong in ("two", "0"):
        monkeypatch.setenv("MASKRCNN_WORKERS", wrong)
        with pytest.raises(SettingsError, match="MASKRCNN_WORKERS"):
            Worker(folder, {})


def test_a_wrong_setting_fails_the_load(predictor: FakePredictor, folder: Path) -> None:
    with pytest.raises(SettingsError, match="has no key presicion"):
        Worker(folder, {"handler": {"presicion": "fp32"}})


def test_a_mixed_batch(predictor: FakePredictor, folder: Path) -> None:
    worker = Worker(folder)
    answers = worker.ask(
        raw(bytearray(JPEG), request_id="a"),
        raw(bytearray(b"junk"), request_id="b"),
        message(
            ("image", "image/jpeg", bytearray(JPEG)), ("output", "", bytearray(b"overlay")), request_id="c"
        ),
        message(("image", "image/jpeg", bytearray(JPEG)), ("output", "text/plain", "xml"), request_id="d"),
        raw({"image": "AAAA"}, "application/json", request_id="e"),
        raw(bytearray(JPEG), "application/x-www-form-urlencoded", request_id="f"),
    )
    assert [answer["id"] for answer in answers] == list("abcdef")
    assert [answer["status"] for answer in answers] == [200, 415, 200, 400, 415, 415]
    assert answers[1]["phrase"] == "Unsupported Media Type"
    types = [answer["type"].partition("/")[2] for answer in answers]
    assert types == ["json", "json", "png", "json", "json", "json"]
    assert len(json.loads(answers[0]["body"])["instances"]) == 2
    assert json.loads(answers[3]["body"])["error"]["field"] == "output"
    assert answers[2]["body"].startswith(b"\x89PNG")


def test_multipart_is_known_by_the_clients_spelling_of_the_header(
    predictor: FakePredictor, folder: Path
) -> None:
    # a field that is called body, in a form
    form = message(("body", "", bytearray(b"x")), headers={"cOnTeNt-TyPe": "multipart/form-data; boundary=b"})
    (answer,) = Worker(folder).ask(form)
    assert json.loads(answer["body"])["error"]["code"] == "missing_image"


def test_a_part_named_like_a_header_is_no_header(predictor: FakePredictor, folder: Path) -> None:
    (answer,) = Worker(folder).ask(
        message(("Content-Type", "", bytearray(b"x")), ("describe", "", bytearray(b"True")))
    )
    assert answer["status"] == 400


def test_a_description_is_answered_within_a_batch(predictor: FakePredictor, folder: Path) -> None:
    worker = Worker(folder)
    describe = message(headers={"describe": "True"})
    describe["headers"] = [h for h in describe["headers"] if h["name"] != b"explain"]
    description, prediction = worker.ask(describe, raw(bytearray(JPEG)))
    assert json.loads(description["body"])["classes"] == ["balloon"]
    assert json.loads(description["body"])["running"]["device"] == "cpu"
    assert len(json.loads(prediction["body"])["instances"]) == 2
    (spoofed,) = worker.ask(raw(bytearray(JPEG)) | {"headers": describe["headers"] + message()["headers"]})
    # a client's own header cannot turn a prediction into a description
    assert "instances" in json.loads(spoofed["body"])


def test_nothing_leaves_handle(
    predictor: FakePredictor, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(folder)

    def fail(photos: object) -> None:
        raise ValueError("CUDA /secret")

    worker.handler.service.predict = fail  # type: ignore[method-assign, assignment]
    answers = worker.ask(raw(JPEG), raw(JPEG))
    assert [answer["status"] for answer in answers] == [500, 500]
    assert b"secret" not in answers[0]["body"]
    assert "CUDA /secret" in caplog.text


def test_a_worker_with_a_broken_gpu_answers_and_ends(
    predictor: FakePredictor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(folder)
    ended, at_exit = threading.Event(), []
    torchserve, socket_of_worker = socket.socketpair()
    worker.service.set_cl_socket(socket_of_worker)
    monkeypatch.setattr(maskrcnn_handler, "SECONDS_TO_SEND", 0.01)
    monkeypatch.setattr(maskrcnn_handler.atexit, "register", lambda *call: at_exit.append(call))
    monkeypatch.setattr(os, "_exit", lambda status: ended.set() if status else None)
    assert worker.ask(raw(JPEG))[0]["status"] == 200
    assert not ended.wait(0.1)

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(predictor, "predict", fail)
    assert [answer["status"] for answer in worker.ask(raw(JPEG), raw(b"junk"))] == [500, 415]
    with torchserve, socket_of_worker:
        socket_of_worker.sendall(b"answers")
        assert torchserve.recv(7) == b"answers"
        assert socket_of_worker.recv(1) == b"", "TorchServe's worker ends instead of waiting for a request"
    assert at_exit == [(os._exit, 1)]
    assert ended.wait(10)


def test_a_gpu_that_torch_cannot_use_fails_the_load(
    predictor: FakePredictor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"assigned GPU 1, .* deviceType: cpu"):
        Worker(folder, gpu=1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    Worker(folder, gpu=1)
    assert predictor.card["loaded"]["device"] == "cuda:1"


def test_metrics_reach_torchserve(
    predictor: FakePredictor, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(folder)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        worker.ask(raw(JPEG), raw(b"junk"), raw(b"junk"), raw(JPEG))
    lines = [record.getMessage() for record in caplog.records if "[METRICS]maskrcnn" in record.getMessage()]
    counted = {re.sub(r"\|#(type|hostname):.*", "", line.removeprefix("[METRICS]")) for line in lines}
    assert {
        "maskrcnn_requests_total.Count:2|#version:toy,outcome:answered,reason:none",
        "maskrcnn_requests_total.Count:2|#version:toy,outcome:refused,reason:unsupported_media_type",
        "maskrcnn_objects.Count:2|#version:toy",
        "maskrcnn_batch_size.Count:4|#version:toy",
    } <= counted
    names = {line.partition(".")[0] for line in counted}
    assert names == {metric.name for metric in METRICS}
    assert "Failed to update metric" not in caplog.text


def test_broken_metrics_lose_no_answer(predictor: FakePredictor, folder: Path) -> None:
    worker = Worker(folder)
    worker.handler.metrics = {}
    assert worker.ask(raw(JPEG))[0]["status"] == 200


def test_the_loader_of_torchserve_takes_the_module(predictor: FakePredictor, folder: Path) -> None:
    """Loaded by name from the archive's folder, as the worker does."""
    (folder / "maskrcnn_handler.py").write_text(Path(maskrcnn_handler.__file__).read_text())
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF" / "MANIFEST.json").write_text('{"model": {}}')
    sys.path.insert(0, str(folder))
    try:
        loader = ModelLoaderFactory.get_model_loader()
        service = loader.load(
            "maskrcnn", str(folder), "maskrcnn_handler.py", None, 1, metrics_cache=metrics_cache()
        )
    finally:
        sys.modules.pop("maskrcnn_handler", None)
        importlib.invalidate_caches()
    service.set_cl_socket(None)
    assert decode_response(service.predict([raw(JPEG)]))[0]["status"] == 200


@pytest.mark.parametrize(
    ("given", "logged"),
    [("page-7.a_b", "page-7.a_b/own"), *((bad, "own") for bad in ("", "a b", "x" * 65, "line\nbreak"))],
)
def test_log_has_the_callers_id_if_it_is_fit_for_one(
    predictor: FakePredictor, folder: Path, caplog: pytest.LogCaptureFixture, given: str, logged: str
) -> None:
    worker = Worker(folder)
    with caplog.at_level(logging.INFO):
        body = ("body", "image/jpeg", bytearray(JPEG))
        worker.ask(message(body, headers={"X-Request-ID": given}, request_id="own"))
    assert f"request {logged} answered: instances=" in caplog.text
