"""The command line without a TorchServe."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from maskrcnn import run
from serve_config import doctor
from serve_config.cli import serve as serve_group
from serve_config.models import ask
from serve_config.server import properties, status
from serve_config.server.state import Home, State
from tests.serve_config.conftest import REPOSITORY
from tests.torchserve_fixture import FREE_PORT_OPTIONS, fake_java
from web_client import config as web_config

Capture = pytest.CaptureFixture[str]


def run_python(*arguments: str | Path, bare: bool = False) -> subprocess.CompletedProcess[str]:
    """``python -m …``, without any package if ``bare``."""
    command = [sys.executable, *(["-S"] if bare else []), "-m", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def command(*arguments: str) -> int:
    """``maskrcnn serve …`` in this process."""
    return run(serve_group, "maskrcnn serve", arguments)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, serve_config.cli; "
        "print({'torch', 'requests', 'psutil', 'yaml', 'numpy', 'PIL'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stderr


@pytest.mark.parametrize(
    "line",
    "nonsense|swap|start --workers 0|start --response-timeout -1|start --inference-port x|start --inference-port 70000|"
    "ask|ask a.jpg --output overlay|ask a.jpg --score-threshold 2".split("|"),
)
def test_wrong_usage_exits_2(line: str, capsys: Capture) -> None:
    assert command(*line.split()) == 2
    assert "Error: " in capsys.readouterr().err


@pytest.mark.parametrize("line", ["models", "swap alpha", "rollback", "unregister alpha", "header"])
def test_without_torchserve_each_says_how_to_start_it(line: str, tmp_path: Path, capsys: Capture) -> None:
    assert command(*line.split(), "--home", str(tmp_path / "home")) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("Error: ")
    assert "maskrcnn serve start" in message


def test_stop_and_status_without_torchserve(tmp_path: Path, capsys: Capture) -> None:
    home = str(tmp_path / "home")
    assert command("stop", "--home", home) == 0
    assert "was not running" in capsys.readouterr().out
    assert command("status", "--home", home) == 1
    assert "is not running: start it with" in capsys.readouterr().out
    assert command("status", "--json", "--home", home) == 1
    assert json.loads(capsys.readouterr().out)["healthy"] is False


def test_damaged_state_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "state.json").write_text("{")
    assert command("status", "--home", str(tmp_path)) == 1
    assert capsys.readouterr().err.startswith(f"Error: {tmp_path / 'state.json'} cannot be read")


@pytest.mark.parametrize("model", ["nope", "http://host/a.mar", __file__])
def test_start_with_a_wrong_archive_starts_nothing(model: str, tmp_path: Path, capsys: Capture) -> None:
    home = Home.at(tmp_path / "home")
    options = ["--home", str(home.path), "--model-store", str(tmp_path / "store")]
    assert command("start", "--models", model, *options) == 1
    assert capsys.readouterr().err.startswith("Error: ")
    assert State.load(home) == State()
    assert not home.config.exists()


def test_missing_package_is_named_with_its_cure() -> None:
    answer = run_python("serve_config", "status", bare=True)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == (
        "Error: the Python package click is missing: run `make install`, and use .venv/bin/python\n"
    )


def test_ports_and_home_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_INFERENCE_PORT", "many")
    assert command("start") == 2
    monkeypatch.delenv("SERVE_INFERENCE_PORT")
    monkeypatch.setenv("SERVE_GRPC_INFERENCE_PORT", "1234")
    monkeypatch.setenv("SERVE_HOME", "elsewhere")
    values = serve_group.commands["start"].make_context("start", ["--metrics-port", "5"]).params
    ports = [values[f"{name}_port"] for name in ("grpc_inference", "metrics", "inference")]
    assert ports == [1234, 5, 8080]
    assert values["home"] == Home.at("elsewhere")


def test_each_timeout_is_longer_than_the_one_inside_it() -> None:
    """Page and our own commands > worker: the inner one reports, the outer one still listens."""
    assert web_config.read({})["TIMEOUT"] > properties.RESPONSE_TIMEOUT
    assert properties.ANSWER_TIMEOUT > properties.RESPONSE_TIMEOUT
    (timeout,) = [option for option in serve_group.commands["ask"].params if option.name == "timeout"]
    assert timeout.default == properties.ANSWER_TIMEOUT


def test_shortened_answer_keeps_the_digest() -> None:
    answer = {"weights_sha256": "a" * 64, "mask": {"counts": "b" * 64}}
    shown = json.loads(ask.show(json.dumps(answer).encode(), raw=False))
    assert shown["weights_sha256"] == "a" * 64
    assert shown["mask"]["counts"] == "b" * 40 + "… (64 characters)"
    assert json.loads(ask.show(json.dumps(answer).encode(), raw=True)) == answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("echo '0, NVIDIA H200, 12, 3021, 143771'", ["NVIDIA H200, 12 % busy, 3021 of 143771 MiB"]),
        ("echo '0, A, 1, 2, 3'; echo '1, A, 1, 2, 3'", ["A, 1 % busy, 2 of 3 MiB"] * 2),
        ("echo 'No devices were found'", []),
        ("echo '0, NVIDIA H200, 12, 3021, 143771'; exit 9", []),
    ],
)
def test_gpus_as_nvidia_smi_tells(
    nvidia_smi: Callable[[str], Path], answer: str, expected: list[str]
) -> None:
    nvidia_smi(answer)
    assert status.gpus() == expected


class TestDoctor:
    def test_bare_python_lists_what_to_install(self, tmp_path: Path) -> None:
        bare = tmp_path / "python"
        bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
        bare.chmod(0o755)
        missing = {finding.subject: finding.cure for finding in doctor.check_packages(bare) if finding.cure}
        packages = "torch torchvision detectron2 torchserve torch-model-archiver click".split()
        assert missing == dict.fromkeys(packages, "run `make install`")

    def test_python_that_does_not_run(self, tmp_path: Path) -> None:
        (finding,) = doctor.check_packages(tmp_path / "python")
        assert (finding.level, finding.subject) == ("missing", "packages")

    @pytest.mark.parametrize("bare", [True, False], ids=["without packages", "as a command"])
    def test_runs(self, tmp_path: Path, bare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SERVE_HOME", str(tmp_path))
        words = ["serve_config.doctor"] if bare else ["maskrcnn", "doctor", *FREE_PORT_OPTIONS]
        answer = run_python(*words, bare=bare)
        assert answer.stderr == ""
        assert answer.returncode == (1 if "missing " in answer.stdout else 0)
        subjects = {line.split()[1] for line in answer.stdout.splitlines() if len(line.split()) > 1}
        assert {"Python", "torch", "detectron2", "torchserve", "Java", "disk", "GPU"} <= subjects

    @pytest.mark.parametrize(
        ("days", "level", "text"),
        [(30, "ok", "21"), (400, "warn", "year old"), (None, "warn", "unknown age"), (-1, "missing", "")],
    )
    def test_java_by_its_age(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int | None, level: str, text: str
    ) -> None:
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setenv("PATH", "/nonexistent")
        today = date(2026, 6, 1)
        if days != -1:
            released = "" if days is None else f" {today - timedelta(days)}"
            fake_java(tmp_path / "java", f'openjdk version "21.0.8"{released} LTS')
            monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
        finding = doctor.check_java(tmp_path / "bin" / "python", today)
        assert finding.level == level
        assert text in finding.text
        assert bool(finding.cure) is (level != "ok")

    def test_port_in_use_is_a_warning_unless_it_is_ours(self, tmp_path: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            home = Home.at(tmp_path)
            finding = doctor.check_port(home, "management", port)
            assert finding.level == "warn"
            assert f"process {os.getpid()}" in finding.text
            assert "--management-port" in finding.cure
            State(ports={"management": port}).save(home)
            assert doctor.check_port(home, "management", port).level == "ok"
        assert doctor.check_port(Home.at(tmp_path / "none"), "metrics", port).level == "ok"

    def test_full_disk_is_a_warning(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        monkeypatch.setattr(doctor, "check_packages", lambda _: [])
        *_, disk = doctor.examine(Home.at(tmp_path), {})
        assert (disk.subject, disk.level, disk.cure) == ("disk", "warn", "free 10 GiB")


class TestManual:
    """README.md is the room's manual: it must not drift from the code."""

    TEXT = (REPOSITORY / "serve_config/README.md").read_text()

    def test_every_environment_variable_is_in_the_table_with_its_default(self) -> None:
        options = [
            option for each in serve_group.commands.values() for option in each.params if option.envvar
        ]
        rows = re.findall(r"^\| `(SERVE_\w+)` \| `(\S+)` \|", self.TEXT, re.M)
        assert dict(rows) == {str(option.envvar): str(option.default) for option in options}

    def test_every_metric_exists(self) -> None:
        declared = (REPOSITORY / "serve_config/templates/metrics.yaml").read_text()
        section = self.TEXT.partition("## Metrics")[2].partition("\n## ")[0]
        metrics = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.M)))
        assert len(metrics) >= 6
        assert all(f"name: {name}," in declared for name in metrics)
