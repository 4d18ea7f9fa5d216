"""The same archive on TorchServe and on LitServe: every answer is the same to the byte, but for the timings."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from serve_config.server.state import ENGINES
from tests.corpus import corpus
from tests.e2e.test_corpus import GOOD, faults, post
from tests.handler.served import handler_archive
from tests.torchserve_fixture import RunningTorchServe, running_torchserve

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore::UserWarning:PIL")]

Servers = dict[str, RunningTorchServe]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Both, with the real handler around a tiny random model."""
    folder = tmp_path_factory.mktemp("both")
    archive = handler_archive(folder / "archive")
    with ExitStack() as stack:
        yield {
            engine: stack.enter_context(running_torchserve(folder / engine, [archive], engine=engine))
            for engine in ENGINES
        }


def ask(server: RunningTorchServe, path: str = "", method: str = "POST", **request: Any) -> requests.Response:
    key, _ = server.client.read_key("inference")
    headers = {"Authorization": f"Bearer {key}"} | request.pop("headers", {})
    url = server.client.url("inference", f"/predictions/maskrcnn{path}")
    return requests.request(method, url, headers=headers, timeout=60, **request)


def without_timings(answer: requests.Response) -> tuple[int, str, bytes]:
    body = re.sub(rb'"timings_ms":{[^}]*}', b"", answer.content)
    return answer.status_code, answer.headers["Content-Type"], body


TEXT = base64.b64encode(GOOD).decode()
IMAGE = {"image": ("a.jpg", GOOD, "image/jpeg")}


@pytest.mark.parametrize(
    "request_",
    [
        {"data": GOOD},
        {"data": GOOD, "method": "PUT"},
        {"data": GOOD, "path": "/mobilenetv2_fpn"},
        {"json": {"image": TEXT}},
        {"json": {"image": f"data:image/jpeg;base64,{TEXT}", "options": {"mask_format": "polygon"}}},
        {"files": {"data": GOOD}},
        *(
            {"files": IMAGE, "data": {name: value}}
            for name, values in {
                "output": "json coco overlay splash labels nonsense",
                "mask_format": "rle polygon png none",
                "classes": "kite balloon,kite 0 dog",
                "max_detections": "1 0",
                "score_threshold": "0.9 nan",
            }.items()
            for value in values.split()
        ),
        {"path": "/nope", "data": GOOD},
        {"data": b"no image"},
        {"data": GOOD, "headers": {"Authorization": "Bearer wrong"}},
    ],
    ids=lambda request: " ".join(f"{key}={str(value)[:40]}" for key, value in request.items()),
)
def test_the_same_answer_to_the_byte(servers: Servers, request_: dict[str, Any]) -> None:
    answers = [ask(server, **request_) for server in servers.values()]
    if '"type"' in answers[0].text:  # the server's own error: its texts are free
        statuses, errors = [a.status_code for a in answers], [a.json() for a in answers]
        assert statuses[0] == statuses[1]
        assert [(e["code"], e["type"]) for e in errors[:1]] == [(e["code"], e["type"]) for e in errors[1:]]
    else:
        assert without_timings(answers[0]) == without_timings(answers[1])


def test_the_same_description(servers: Servers) -> None:
    described = [
        s.client.json("management", "GET", "/models/maskrcnn?customized=true") for s in servers.values()
    ]
    cards = [description[0]["customizedMetadata"] for description in described]
    assert cards[0] == {key: value for key, value in cards[1].items() if value is not None}
    assert described[1][0].keys() <= described[0][0].keys()
    workers = [description[0]["workers"][0] for description in described]
    assert {"startTime", "status", "pid"} <= workers[1].keys() <= workers[0].keys(), (
        "the page shows the first"
    )


# TorchServe decodes the first, so that the handler sees no JSON; it does not read the second, which RFC 2046 allows.
DIFFERENT = {"JSON string", "form with a preamble"}


@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_bad_requests_are_refused_alike(servers: Servers, step: int) -> None:
    """Over 700 of them, or every tenth. TorchServe refuses some before the handler sees them, by codes of its own."""
    keys = {engine: server.client.read_key("inference")[0] for engine, server in servers.items()}
    urls = {engine: s.client.url("inference", "/predictions/maskrcnn") for engine, s in servers.items()}

    def compare(case: Any) -> Iterator[str]:
        answers = {}
        for engine in servers:
            try:
                answers[engine] = post(urls[engine], case, False, keys[engine])
            except requests.ConnectionError:
                answers[engine] = None
        ours, reference = answers["litserve"], answers["torchserve"]
        if ours is None:
            yield "no answer"
            return
        yield from faults("litserve", ours, 0, [keys["litserve"].encode()])
        by_handler = (
            reference is not None and '"type": "' not in reference.text and case.name not in DIFFERENT
        )
        if by_handler and without_timings(ours) != without_timings(reference):
            yield f"{reference.status_code} {reference.text[:150]} → {ours.status_code} {ours.text[:150]}"

    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda case: [f"{case.name}: {each}" for each in compare(case)], corpus()[::step])
        )
    assert "\n".join(line for lines in found for line in lines) == ""
