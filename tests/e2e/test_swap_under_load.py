"""A swap under load: no request is lost, none waits, and none gets an answer that is out of date."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from serve_config.models.management import versions
from serve_config.server.state import ENGINES, State
from tests.e2e.callers import Callers
from tests.torchserve_fixture import TOY_HANDLER, RunningTorchServe, running_torchserve, serve, toy_archive

pytestmark = pytest.mark.e2e

LOADING = 4  # seconds that one of the versions takes to load


def asking(server: RunningTorchServe, session: requests.Session) -> Callable[[], requests.Response]:
    """One caller of the default version."""
    url = server.client.url("inference", "/predictions/maskrcnn")
    headers = {"Authorization": f"Bearer {server.client.read_key('inference')[0]}"}
    return lambda: session.post(url, data=b"sleep:0.02", headers=headers, timeout=30)


@pytest.mark.parametrize("engine", ENGINES)
def test_swaps_and_rollback_under_load_lose_nothing(engine: str, tmp_path: Path) -> None:
    toys = {version: toy_archive(tmp_path, version) for version in ("alpha", "beta")}
    toys["gamma"] = toy_archive(
        tmp_path, "gamma", handler=f"import time\ntime.sleep({LOADING})\n{TOY_HANDLER}"
    )
    switches: list[tuple[float, float, str]] = []  # begun, done, version that serves from then on

    def switch(*command: str, to: str) -> None:
        begun = time.monotonic()
        assert serve(*command, home=server.home) == 0
        switches.append((begun, time.monotonic(), to))
        time.sleep(0.5)

    with (
        ExitStack() as sessions,
        running_torchserve(tmp_path, [toys["alpha"], toys["beta"]], engine=engine) as server,
    ):
        (server.store / toys["gamma"].name).write_bytes(toys["gamma"].read_bytes())
        callers = Callers(*[asking(server, sessions.enter_context(requests.Session())) for _ in range(8)])
        with callers:
            time.sleep(0.5)
            switch("swap", "beta", "--unregister-old", to="beta")
            switch("swap", "gamma", to="gamma")  # registers it from the store
            switch("rollback", to="beta")
        assert [version.name for version in versions(server.client)] == ["beta", "gamma"]
        assert State.load(server.home).history == ["alpha"]

    assert len(callers.answers) > 100
    assert callers.lost == []
    assert [answer for _, _, answer in callers.answers if answer.status_code != 200] == []
    answers = [(asked, answered, answer.json()["version"]) for asked, answered, answer in callers.answers]
    serving = [(0.0, 0.0, "alpha"), *switches]
    for asked, answered, version in answers:
        begun_before = [to for begun, _, to in serving if begun <= answered]
        last_done = max(index for index, (_, done, _) in enumerate(serving) if done <= asked)
        may_answer = [to for _, _, to in serving[last_done : len(begun_before)]]
        assert version in may_answer
    assert {version for _, _, version in answers} == {"alpha", "beta", "gamma"}
    # nobody waits for a model to be loaded but the one who asked for it
    assert max(answered - asked for asked, answered, _ in answers) < LOADING
