"""The Dockerfile, compose.yaml and the systemd units: read, since no engine runs where this is built."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from serve_config.cli import serve
from web_client.cli import web

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "serve_config/deploy/docker"
UNITS = sorted((ROOT / "serve_config/deploy/systemd").glob("*.service"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def parses(command: list[str]) -> bool:
    """Whether ``python -m MODULE …`` knows this command line; click raises where it does not."""
    assert command[1] == "-m", command
    module, arguments = command[2], command[3:]
    if module == "web_client":
        return bool(web.make_context(module, arguments))
    name, subcommand, arguments = serve.resolve_command(click.Context(serve), arguments)
    return bool(subcommand and subcommand.make_context(name, arguments))


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    run = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_dockerfile_is_not_root_and_copies_what_there_is() -> None:
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users
    assert users[-1].split(":")[0].isdigit()
    assert users[-1] != "0"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, f"{source} never reaches the build"
        if line.startswith("FROM"):
            assert re.fullmatch(r"FROM [\w/]+:[\w.-]*\d[\w.-]*", line), "a version, never latest"


def test_every_service_is_hardened(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert not service["user"].startswith("0"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "privileged" not in service, name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["mem_limit"], name
        assert all("docker.sock" not in volume for volume in service["volumes"]), name


def test_only_the_page_is_published(compose: dict[str, Any]) -> None:
    assert compose["services"]["torchserve"]["ports"] == ["127.0.0.1:5000:5000"]
    assert "ports" not in compose["services"]["web_client"]
    assert compose["services"]["web_client"]["network_mode"] == "service:torchserve", "loopback is shared"


def test_gpu_file_asks_for_the_gpus_of_a_service_that_exists(compose: dict[str, Any]) -> None:
    more = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())["services"]
    assert more.keys() <= compose["services"].keys()
    (device,) = more["torchserve"]["deploy"]["resources"]["reservations"]["devices"]
    assert "gpu" in device["capabilities"]


def test_commands_are_ours(compose: dict[str, Any]) -> None:
    image = next(line for line in (DOCKER / "Dockerfile").read_text().splitlines() if line.startswith("CMD"))
    assert parses(yaml.safe_load(image.removeprefix("CMD ")))
    assert parses(compose["services"]["web_client"]["command"])
    assert parses(compose["services"]["torchserve"]["healthcheck"]["test"][1:])


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_unit_is_hardened_and_starts_our_command(unit: Path) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(unit)
    service = parser["Service"]
    assert parses(shlex.split(service["ExecStart"]))
    assert service["User"] != "root"
    hardened = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "CapabilityBoundingSet": ""}
    assert {key: service[key] for key in hardened} == hardened


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_reads_the_unit(unit: Path, tmp_path: Path) -> None:
    for path in UNITS:  # systemd wants the program to exist
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text)
    run = subprocess.run(["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "ignoring" not in run.stderr, run.stderr
