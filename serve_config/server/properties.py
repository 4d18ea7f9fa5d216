"""Render TorchServe's hardened ``config.properties``."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import string
from dataclasses import dataclass, field
from pathlib import Path

from serve_config.errors import ServeError
from serve_config.server.state import PORT_NAMES

TEMPLATE = Path(__file__).parents[1] / "templates" / "config.properties"
METRICS = Path(__file__).parents[1] / "templates" / "metrics.yaml"
SYSTEM_METRICS = Path(__file__).with_name("system_metrics.py")
LOOPBACK = "127.0.0.1"

DEFAULT_PORTS = {
    "inference": 8080,
    "management": 8081,
    "metrics": 8082,
    "grpc_inference": 7070,
    "grpc_management": 7071,
}

MEBIBYTE = 1024 * 1024

# The chain of timeouts, in seconds. Each waits longer than the one inside it, so that the inner one reports first:
#   browser 160 > page 140 (both in web_client/config.py) > worker 120 (here)
RESPONSE_TIMEOUT = 120  # a worker that takes longer is restarted, and its request gets a 500
QUEUE_SIZE = 32  # requests that may wait per version; web_client/config.py's THREADS must exceed it
ANSWER_TIMEOUT = 140  # how long our own commands wait for a prediction, as long as the page


@dataclass(frozen=True)
class Settings:
    """What ``start`` lets a user choose; the rest of the template is fixed. Sizes in bytes, times in seconds.

    ``workers`` and ``response_timeout`` win over an archive's model-config.yaml; None leaves them to the archive.
    """

    ports: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))  # 0: any free one
    max_request_size: int = 96 * MEBIBYTE
    max_response_size: int = 64 * MEBIBYTE
    job_queue_size: int = QUEUE_SIZE
    startup_timeout: int = 300
    response_timeout: int | None = None
    workers: int | None = None
    engine: str = "torchserve"  # one of ENGINES

    @property
    def overrides(self) -> dict[str, int]:
        """The keys of model-config.yaml that the user has set."""
        keys = {
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "responseTimeout": self.response_timeout,
        }
        return {key: value for key, value in keys.items() if value is not None}


def render(settings: Settings, ports: dict[str, int], store: Path) -> str:
    """The text of config.properties.

    ``ports`` holds one port for each of PORT_NAMES, all different and none 0; ``store`` is absolute. Raises
    ServeError for an invalid port.
    """
    for name in PORT_NAMES:
        if not 1 <= ports[name] <= 65535:
            raise ServeError(
                f"invalid {name} port {ports[name]}: expected 1 to 65535, or 0 for any free port"
            )
    for name, port in ports.items():
        twin = next((other for other in ports if other != name and ports[other] == port), None)
        if twin:
            raise ServeError(
                f"the ports for {name} and {twin} are both {port}: choose another one for {name}"
            )
    return string.Template(TEMPLATE.read_text()).substitute(
        {f"{name}_port": port for name, port in ports.items()},
        model_store=escape(str(store)),
        allowed_urls=escape(allowed_urls(store)),
        max_request_size=settings.max_request_size,
        max_response_size=settings.max_response_size,
        job_queue_size=settings.job_queue_size,
        response_timeout=settings.response_timeout or RESPONSE_TIMEOUT,
        startup_timeout=settings.startup_timeout,
        workers=settings.workers or 1,
        metrics_config=escape(str(METRICS)),
        system_metrics_cmd=escape(system_metrics_command(SYSTEM_METRICS, torchserve_home())),
    )


def allowed_urls(store: Path) -> str:
    r"""A Java regular expression for ``file://`` URLs of archives directly in ``store``, and nothing else.

    TorchServe downloads before it looks for "..", so the pattern itself must not allow it. TorchServe splits
    the value at commas, so every special character is written as ``\x{…}``.

    >>> allowed_urls(Path("/srv/store"))
    'file:///srv/store/[A-Za-z0-9_-][A-Za-z0-9._-]*[.]mar'
    """
    quoted = re.sub(r"[^A-Za-z0-9/_-]", lambda found: f"\\x{{{ord(found[0]):x}}}", str(store))
    return f"file://{quoted}/[A-Za-z0-9_-][A-Za-z0-9._-]*[.]mar"


def system_metrics_command(script: Path, home: Path | None) -> str:
    """The script as TorchServe's ``system_metrics_cmd``: relative to ``home``, the folder that it is started in.

    TorchServe splits the value at spaces, and the relative path is the shorter one. If it has one all the same, the
    value is empty, and TorchServe's own collector runs.

    >>> system_metrics_command(Path("/my photos/serve_config/a.py"), Path("/my photos/.venv/site-packages"))
    '../../serve_config/a.py'
    """
    relative = os.path.relpath(script.resolve(), home.resolve()) if home else ""
    return "" if re.search(r"\s", relative) else relative


def escape(value: str) -> str:
    r"""Escape a value for a Java properties file, which is Latin-1: backslashes doubled, the rest as UTF-16 escapes.

    >>> escape("/größe/a\\b")
    '/gr\\u00f6\\u00dfe/a\\\\b'
    """
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = (int.from_bytes(units[i : i + 2]) for i in range(0, len(units), 2))
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)


def torchserve_home() -> Path | None:
    """The folder that holds the package ``ts``; None if TorchServe is not installed."""
    spec = importlib.util.find_spec("ts")
    return Path(spec.origin).parent.parent if spec and spec.origin else None


def choose_ports(wanted: dict[str, int]) -> dict[str, int]:
    """``wanted`` with every 0 replaced by a free port. Raises ServeError naming a port that is taken."""
    sockets: list[socket.socket] = []
    chosen = dict(wanted)
    try:  # keep each socket open until the last port is chosen, so that no port is chosen twice
        for name, port in sorted(wanted.items(), key=lambda item: item[1], reverse=True):
            sockets.append(listener := socket.socket())
            try:
                bind(listener, port)
            except OverflowError as error:
                raise ServeError(f"invalid {name} port {port}: expected 1 to 65535, or 0") from error
            except OSError as error:
                if port in (other.getsockname()[1] for other in sockets[:-1]):
                    continue  # the same port twice: render() names both
                raise ServeError(
                    f"port {port} (the server's {name.replace('_', ' ')}) cannot be used "
                    f"({error.strerror}{owner(port)}): stop that program, or choose another port with "
                    f"--{name.replace('_', '-')}-port (0 takes a free one)"
                ) from error
            chosen[name] = listener.getsockname()[1]
    finally:
        for listener in sockets:
            listener.close()
    return chosen


def bind(listener: socket.socket, port: int) -> None:
    """Listen on a port of this machine, as TorchServe would. Raises OSError, or OverflowError for no port."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT counts as free
    listener.bind((LOOPBACK, port))
    listener.listen(1)


def owner(port: int) -> str:
    """`` by NAME, process 1234`` for the program that listens on ``port``; empty where that cannot be seen."""
    try:
        import psutil

        for connection in psutil.net_connections("tcp"):
            here = connection.laddr and connection.laddr.port == port
            if here and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f" by {psutil.Process(connection.pid).name()}, process {connection.pid}"
    except Exception:  # noqa: S110, it only improves a message; psutil or the rights may be missing
        pass
    return ""
