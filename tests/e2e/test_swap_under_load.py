"""A swap under load: no request is lost, none waits, and none gets an answer that is out of date."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import requests

from serve_config.cli import main as serve_config
from serve_config.management import versions
from serve_config.state import State
from tests.torchserve_fixture import TOY_HANDLER, RunningTorchServe, running_torchserve, toy_archive

pytestmark = pytest.mark.e2e

LOADING = 4  # seconds that one of the versions takes to load


class Load:
    """Threads that ask the default version without a pause, and note when, and who answered."""

    def __init__(self, server: RunningTorchServe, threads: int) -> None:
        self.url = server.client.url("inference", "/predictions/maskrcnn")
        self.headers = {"Authorization": f"Bearer {server.client.read_key('inference')[0]}"}
        self.answers: list[tuple[float, float, int, str]] = []  # asked, answered, status, version
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.work) for _ in range(threads)]

    def work(self) -> None:
        with requests.Session() as session:
            while not self.ending.is_set():
                asked = time.monotonic()
                try:
                    answer = session.post(self.url, data=b"sleep:0.02", headers=self.headers, timeout=30)
                    told = answer.json().get("version", answer.text)
                    self.answers.append((asked, time.monotonic(), answer.status_code, told))
                except requests.RequestException as error:
                    self.answers.append((asked, time.monotonic(), 0, str(error)))

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()


def test_swaps_and_rollback_under_load_lose_nothing(tmp_path: Path) -> None:
    toys = {version: toy_archive(tmp_path, version) for version in ("alpha", "beta")}
    toys["gamma"] = toy_archive(
        tmp_path, "gamma", handler=f"import time\ntime.sleep({LOADING})\n{TOY_HANDLER}"
    )
    switches: list[tuple[float, float, str]] = []  # begun, done, version that serves from then on

    def switch(*command: str, to: str) -> None:
        begun = time.monotonic()
        assert serve_config([*command, "--home", str(server.home.path)]) == 0
        switches.append((begun, time.monotonic(), to))
        time.sleep(0.5)

    with running_torchserve(tmp_path, [toys["alpha"], toys["beta"]]) as server:
        (server.store / toys["gamma"].name).write_bytes(toys["gamma"].read_bytes())
        with Load(server, threads=8) as load:
            time.sleep(0.5)
            switch("swap", "beta", "--unregister-old", to="beta")
            switch("swap", "gamma", to="gamma")  # registers it from the store
            switch("rollback", to="beta")
        assert [version.name for version in versions(server.client)] == ["beta", "gamma"]
        assert State.load(server.home).history == ["alpha"]

    assert len(load.answers) > 100
    assert [answer for answer in load.answers if answer[2] != 200] == []
    serving = [(0.0, 0.0, "alpha"), *switches]
    for asked, answered, _, version in load.answers:
        begun_before = [to for begun, _, to in serving if begun <= answered]
        last_done = max(index for index, (_, done, _) in enumerate(serving) if done <= asked)
        may_answer = [to for _, _, to in serving[last_done : len(begun_before)]]
        assert version in may_answer
    assert {answer[3] for answer in load.answers} == {"alpha", "beta", "gamma"}
    # nobody waits for a model to be loaded but the one who asked for it
    assert max(answered - asked for asked, answered, _, _ in load.answers) < LOADING
