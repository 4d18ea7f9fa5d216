from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import socket
from pathlib import Path

import pytest

import serve_config
from serve_config.errors import ServeError
from serve_config.server.properties import (
    DEFAULT_PORTS,
    LOOPBACK,
    Settings,
    allowed_urls,
    choose_ports,
    render,
)

PORTS = dict(DEFAULT_PORTS)


def properties(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize(
    "name", [module.name for module in pkgutil.walk_packages(serve_config.__path__, "serve_config.")]
)
def test_examples_in_docstrings_hold(name: str) -> None:
    if name != "serve_config.__main__":
        assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_rendered_configuration_is_hardened(tmp_path: Path) -> None:
    config = properties(render(Settings(), PORTS, tmp_path))
    for name in ("inference", "management", "metrics"):
        assert config[f"{name}_address"] == f"http://127.0.0.1:{PORTS[name]}"
    for name in ("grpc_inference", "grpc_management"):
        assert (config[f"{name}_address"], config[f"{name}_port"]) == (LOOPBACK, str(PORTS[name]))
    off = "disable_token_authorization enable_envvars_config use_env_allowed_urls install_py_dep_per_model"
    assert {config[name] for name in off.split()} == {"false"}
    assert (config["model_store"], config["metrics_mode"]) == (str(tmp_path), "prometheus")
    assert Path(config["metrics_config"]).is_file()
    assert "$" not in "".join(config.values())
    config = properties(render(Settings(PORTS, 13, 14, 16), PORTS, tmp_path))
    names = "job_queue_size default_response_timeout default_workers_per_model".split()
    assert [int(config[name]) for name in names] == [13, 14, 16]


@pytest.mark.parametrize("store", ["/srv/store", "/srv/a b/c,d/(e)*[f]+$g", "/srv/größe"])
@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("file://{store}/maskrcnn_resnet50_fpn.2.mar", True),
        ("file://{store}/../secret.mar", False),
        ("file://{store}/folder/a.mar", False),
        ("file://{store}/%2e%2e%2fa.mar", False),
        ("file://{store}/..", False),
        ("file://{store}/.hidden.mar", False),
        ("file://{store}/a.zip", False),
        ("file://{store}x/a.mar", False),
        ("file:///etc/passwd", False),
        ("http://host/a.mar", False),
        ("https://host{store}/a.mar", False),
        ("http://host/?file://{store}/a.mar", False),
    ],
)
def test_allowed_urls_are_plain_names_in_the_store(store: str, url: str, allowed: bool) -> None:
    pattern = allowed_urls(Path(store))
    assert "," not in pattern  # TorchServe splits there
    as_python = re.sub(r"\\x\{([0-9a-f]+)\}", lambda found: re.escape(chr(int(found[1], 16))), pattern)
    assert bool(re.fullmatch(as_python, url.format(store=store), re.IGNORECASE)) is allowed


def test_free_ports_differ() -> None:
    ports = choose_ports(dict.fromkeys(DEFAULT_PORTS, 0))
    assert len(set(ports.values())) == len(DEFAULT_PORTS)
    assert all(1024 <= port <= 65535 for port in ports.values())


def test_port_in_use_names_port_owner_and_option() -> None:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        port = listener.getsockname()[1]
        wanted = dict.fromkeys(DEFAULT_PORTS, 0) | {"management": port}
        with pytest.raises(ServeError, match=rf"port {port} .*in use.*process \d+.*--management-port"):
            choose_ports(wanted)
    with pytest.raises(ServeError, match=rf"the ports for management and metrics are both {port}"):
        choose_ports(wanted | {"metrics": port})
