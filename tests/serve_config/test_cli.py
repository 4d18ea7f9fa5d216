"""The command line where no TorchServe runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serve_config import doctor, status
from serve_config.cli import build_parser, main
from serve_config.models import ask, swap
from serve_config.server.properties import DEFAULT_PORTS
from serve_config.server.state import Home, State
from tests.serve_config.conftest import REPOSITORY

COMMANDS = ["start", "stop", "status", "models", "register", "swap", "rollback", "unregister", "predict"]
COMMANDS += ["fetch", "plan", "curl", "header", "doctor"]


def run(*arguments: str | Path, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "-m", "serve_config", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "--home DIR" in capsys.readouterr().out


def test_help_lists_every_command_without_any_package() -> None:
    started = time.monotonic()
    answer = run("--help", python=("-S",))
    assert time.monotonic() - started < 5
    assert answer.returncode == 0
    assert all(command in answer.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["swap"],
        ["start", "--workers", "0"],
        ["start", "--inference-port", "x"],
        ["predict"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["register", __file__],
        ["swap", "alpha"],
        ["rollback"],
        ["unregister", "alpha"],
        ["predict", __file__],
        ["curl"],
        ["header"],
    ],
)
def test_without_torchserve_each_says_so_in_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--home", str(tmp_path / "home")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "python -m" in lines[0] or "not an archive" in lines[0]


def test_stop_and_status_without_torchserve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path / "home")
    assert main(["stop", "--home", home]) == 0
    assert "was not running" in capsys.readouterr().out
    assert main(["status", "--home", home]) == 1
    assert "is not running: start it with" in capsys.readouterr().out
    assert main(["status", "--json", "--home", home]) == 1
    assert json.loads(capsys.readouterr().out)["healthy"] is False


def test_damaged_state_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state.json").write_text("{")
    assert main(["status", "--home", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'state.json'} cannot be read")


@pytest.mark.parametrize(
    "models", [["--models", "nope"], ["--models", "http://host/a.mar"], ["--models", __file__]]
)
def test_start_with_a_wrong_archive_starts_nothing(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home.at(tmp_path / "home")
    store = tmp_path / "store"
    assert main(["start", *models, "--home", str(home.path), "--model-store", str(store)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert State.load(home) == State()
    assert not home.config.exists()


def test_missing_package_is_named_with_its_cure(tmp_path: Path) -> None:
    answer = run("status", "--home", tmp_path, python=("-S",))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "error: the Python package" in answer.stderr
    assert "is missing: run `make install`" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_ports_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_GRPC_INFERENCE_PORT", "1234")
    monkeypatch.setenv("SERVE_HOME", "elsewhere")
    args = build_parser().parse_args(["start", "--metrics-port", "5"])
    assert (args.grpc_inference_port, args.metrics_port, args.inference_port) == (1234, 5, 8080)
    assert args.home == "elsewhere"


def test_probe_picture_is_a_png() -> None:
    cv2 = pytest.importorskip("cv2")
    numpy = pytest.importorskip("numpy")
    image = cv2.imdecode(numpy.frombuffer(swap.probe_png(32), numpy.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (32, 32, 3)
    assert (image == 128).all()


def test_answer_for_eyes_keeps_the_digest() -> None:
    answer = {"weights_sha256": "a" * 64, "mask": {"counts": "b" * 64}}
    shown = json.loads(ask.show(json.dumps(answer).encode(), raw=False))
    assert shown["weights_sha256"] == "a" * 64
    assert shown["mask"]["counts"] == "b" * 40 + "… (64 characters)"
    assert json.loads(ask.show(json.dumps(answer).encode(), raw=True)) == answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("echo 'NVIDIA H200, 12, 3021, 143771'", ["NVIDIA H200, 12 % busy, 3021 of 143771 MiB"]),
        ("echo 'No devices were found'", []),
        ("echo 'NVIDIA H200, 12, 3021, 143771'; exit 9", []),
    ],
)
def test_gpus_as_nvidia_smi_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, expected: list[str]
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert status.gpus() == expected
    monkeypatch.setenv("PATH", "/nonexistent")
    assert status.gpus() == []


class TestDoctor:
    def levels(self, findings: list[doctor.Finding]) -> dict[str, str]:
        return {finding.subject: finding.level for finding in findings}

    def test_bare_python_is_told_the_cure(self, tmp_path: Path) -> None:
        bare = tmp_path / "python"
        bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
        bare.chmod(0o755)
        findings = doctor.check_packages(bare)
        for subject in ("torch", "torchvision", "detectron2", "TorchServe", "psutil", "requests"):
            finding = next(finding for finding in findings if finding.subject == subject)
            assert (finding.level, finding.cure) == ("missing", "run `make install`")

    def test_python_that_does_not_run(self, tmp_path: Path) -> None:
        assert self.levels(doctor.check_packages(tmp_path / "python")) == {"packages": "missing"}

    def test_runs_without_packages_and_looks_into_the_environment(self, tmp_path: Path) -> None:
        answer = run("doctor", "--home", tmp_path, *free_ports(), python=("-S",))
        assert "Traceback" not in answer.stderr
        assert answer.returncode == (1 if "missing " in answer.stdout else 0)
        for subject in ("Python", "torch", "detectron2", "TorchServe", "Java", "disk", "memory", "GPU"):
            assert any(line.split()[1] == subject for line in answer.stdout.splitlines() if line.strip()), (
                subject
            )

    def test_java_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setenv("PATH", "/nonexistent")
        monkeypatch.setattr(doctor, "project_python", lambda: tmp_path / "bin" / "python")
        finding = doctor.check_java()
        assert finding.level == "missing"
        assert "make install" in finding.cure

    def test_port_in_use_is_a_warning_unless_it_is_ours(self, tmp_path: Path) -> None:
        home = Home.at(tmp_path)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            (finding,) = doctor.check_ports(home, {"management": port})
            assert finding.level == "warn"
            assert f"process {os.getpid()}" in finding.text
            assert "--management-port" in finding.cure
            State(ports={"management": port}).save(home)
            (finding,) = doctor.check_ports(home, {"management": port})
            assert finding.level == "ok"
        (finding,) = doctor.check_ports(home, {"metrics": port})
        assert finding.level == "ok"

    def test_full_disk_is_a_warning(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = type("Usage", (), {"free": 1000})()
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
        assert doctor.check_disk(tmp_path).level == "warn"

    def test_folder_without_rights_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.access", lambda *_: False)
        assert doctor.check_state(Home.at(tmp_path)).level == "missing"


def free_ports() -> list[str]:
    return [f"--{name.replace('_', '-')}-port=0" for name in DEFAULT_PORTS]
