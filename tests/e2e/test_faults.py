"""What breaks while the service runs, on purpose: a worker, TorchServe itself, an archive. Nothing hangs,
every caller is told something, and it serves again by itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from serve_config.models.management import default_version, versions
from serve_config.server import lifecycle as server_module
from serve_config.server.properties import Settings
from serve_config.server.state import ENGINES, State
from tests.commands import finetune
from tests.e2e.callers import Callers
from tests.e2e.conftest import page_config
from tests.torchserve_fixture import FREE_PORTS, RunningTorchServe, running_torchserve, serve, toy_archive
from tests.toy_models import write_run
from tests.web_client.conftest import assert_error_shape, serving
from tests.web_client.stub import balloon_picture
from web_client.app import create_app

pytestmark = pytest.mark.e2e

PICTURE = balloon_picture()
TIMEOUT = 20.0  # seconds that the web client waits for a prediction
BACK_AGAIN = 15.0  # seconds in which a killed worker must be replaced

# answers with a document, as the real handler does, and takes 20 ms for it
HANDLER = """
import os, time

def handle(data, context):
    if data is None:
        return None
    time.sleep(0.02)
    for index in range(len(data)):
        context.set_response_content_type(index, "application/json")
    return [{"instances": [], "pid": os.getpid()} for _ in data]
"""


@pytest.fixture(scope="module", params=ENGINES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningTorchServe]:
    folder = tmp_path_factory.mktemp("faults")
    archive = toy_archive(folder, "alpha", handler=HANDLER)
    with running_torchserve(folder, [archive], engine=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def app(server: RunningTorchServe) -> Flask:
    return create_app(page_config(server, TIMEOUT=TIMEOUT))


@pytest.fixture(scope="module")
def page(app: Flask) -> Iterator[str]:
    with serving(app) as url:
        yield url


def by_page(page: str, timeout: float = TIMEOUT + 10) -> requests.Response:
    return requests.post(f"{page}/api/predict", files={"image": ("a.png", PICTURE)}, timeout=timeout)


def directly(server: RunningTorchServe) -> requests.Response:
    return server.client.request("inference", "POST", "/predictions/maskrcnn", data=PICTURE, timeout=30)


def workers(server: RunningTorchServe) -> list[dict[str, Any]]:
    return [worker for version in versions(server.client) for worker in version.workers]


def seconds_until(true: Callable[[], bool], limit: float) -> float:
    """How long it takes until ``true()``; fails after ``limit``."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < limit, f"not within {limit:.0f} s"
        time.sleep(0.1)
    return time.monotonic() - start


def test_a_killed_worker_is_replaced_and_every_caller_told(server: RunningTorchServe, page: str) -> None:
    (worker,) = workers(server)
    victim = int(worker["pid"])
    with Callers(*[lambda: by_page(page)] * 4, *[lambda: directly(server)] * 4) as callers:
        time.sleep(1)
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)

        def answered() -> bool:
            return any(asked > killed and answer.ok for asked, _, answer in callers.answers.copy())

        seconds_until(answered, BACK_AGAIN)
        time.sleep(1)
    assert callers.lost == []
    assert max(done - asked for asked, done, _ in callers.answers) < BACK_AGAIN
    failed = [answer for _, _, answer in callers.answers if not answer.ok]
    assert len(failed) <= 8
    for answer in failed:  # those that the worker was at when it died, and none that came later
        if answer.url.startswith(page):
            assert answer.status_code == 503
            assert_error_shape(answer.json())
            assert int(answer.headers["Retry-After"]) > 0
        else:
            assert (answer.status_code, answer.json()["message"]) == (507, "Worker died.")
    pids = {answer.json()["pid"] for _, _, answer in callers.answers if answer.ok}
    assert victim in pids
    assert len(pids) == 2


def test_a_torchserve_that_hangs_costs_no_more_than_the_timeout(server: RunningTorchServe) -> None:
    pid = State.load(server.home).pid
    with serving(create_app(page_config(server, TIMEOUT=2.0))) as page:
        os.kill(pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            answer = by_page(page)
            assert time.monotonic() - start < 2 + 3
            assert requests.get(f"{page}/healthz", timeout=5).ok
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "model_slow")
        assert_error_shape(answer.json())
        seconds_until(lambda: by_page(page).ok, BACK_AGAIN)


def test_the_page_says_that_torchserve_is_gone_and_recovers_by_itself(
    server: RunningTorchServe, page: str
) -> None:
    state = State.load(server.home)
    assert by_page(page).ok
    os.killpg(state.pid, signal.SIGKILL)  # the frontend and its workers share its session and group
    start = time.monotonic()
    answer = by_page(page)
    assert time.monotonic() - start < 5
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unreachable")
    assert_error_shape(answer.json())
    assert int(answer.headers["Retry-After"]) > 0
    assert requests.get(f"{page}/readyz", timeout=10).status_code == 503
    assert requests.get(f"{page}/healthz", timeout=10).ok
    assert requests.get(f"{page}/", timeout=10).ok

    settings = Settings(ports=FREE_PORTS | state.ports, engine=state.engine)
    server_module.start(server.home, settings, server.store, None, server.said.append)
    seconds_until(lambda: by_page(page).ok, 5)
    assert requests.get(f"{page}/readyz", timeout=10).json()["versions"] == ["alpha"]


@pytest.fixture(scope="module")
def real_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``finetune export`` makes of a tiny random model."""
    folder = tmp_path_factory.mktemp("real")
    write_run(folder / "run")
    assert finetune(["export", str(folder / "run"), "--output", str(folder), "--engine", "torch"]) == 0
    return folder / "maskrcnn_mobilenetv2_fpn.mar"


def repacked(archive: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy in which ``change(name, content)`` gives each part's content, or None to leave it out."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = change(name, source.read(name))
            if content is not None:
                copy.writestr(name, content)
    return target


def flip_last_byte(name: str, content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1]) if name == "model.safetensors" else content


def without_weights(name: str, content: bytes) -> bytes | None:
    return None if name == "model.safetensors" else content


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (flip_last_byte, "is not the file whose SHA-256 archive.json records"),
        (without_weights, "no readable model.safetensors"),
    ],
)
def test_an_archive_with_wrong_weights_is_refused_and_the_rest_serves_on(
    server: RunningTorchServe,
    page: str,
    real_archive: Path,
    tmp_path: Path,
    change: Callable[[str, bytes], bytes | None],
    cause: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = repacked(real_archive, tmp_path / real_archive.name, change)
    try:
        with Callers(lambda: by_page(page)) as callers:
            assert serve("register", archive, home=server.home) == 1
        assert cause in capsys.readouterr().err
    finally:
        (server.store / archive.name).unlink(missing_ok=True)
    assert [version.name for version in versions(server.client)] == ["alpha"]
    assert default_version(server.client) == "alpha"
    assert len(callers.answers) > 10
    assert callers.lost == []
    assert all(answer.ok for _, _, answer in callers.answers)
    assert max(done - asked for asked, done, _ in callers.answers) < 3


def test_the_unharmed_archive_is_taken(
    server: RunningTorchServe, page: str, real_archive: Path, tmp_path: Path
) -> None:
    """The control: what is refused above is refused for its fault alone."""
    copy = shutil.copy(real_archive, tmp_path)
    assert serve("register", copy, home=server.home) == 0
    answer = requests.post(
        f"{page}/api/predict",
        files={"image": ("a.png", PICTURE)},
        data={"version": "mobilenetv2_fpn"},
        timeout=60,
    )
    assert answer.json()["model"]["version"] == "mobilenetv2_fpn"
    assert serve("unregister", "mobilenetv2_fpn", home=server.home) == 0
    (server.store / real_archive.name).unlink()
