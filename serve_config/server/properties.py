"""Render TorchServe's hardened ``config.properties``."""

from __future__ import annotations

import importlib.util
import re
import socket
import string
from dataclasses import dataclass, field
from pathlib import Path

from serve_config.errors import ServeError
from serve_config.server.state import PORT_NAMES

TEMPLATE = Path(__file__).parents[1] / "templates" / "config.properties"
OWN_METRICS = Path(__file__).parents[1] / "templates" / "metrics.yaml"
LOOPBACK = "127.0.0.1"

DEFAULT_PORTS = {
    "inference": 8080,
    "management": 8081,
    "metrics": 8082,
    "grpc_inference": 7070,
    "grpc_management": 7071,
}

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """What a user may choose. Everything else in the template is fixed. Sizes are bytes, times seconds."""

    ports: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))  # 0: any free one
    max_request_size: int = 32 * MEBIBYTE
    max_response_size: int = 64 * MEBIBYTE
    job_queue_size: int = 32
    response_timeout: int = 60
    startup_timeout: int = 300
    workers: int = 1


def render(settings: Settings, ports: dict[str, int], store: Path) -> str:
    """The text of config.properties.

    ``ports`` holds one port for each of PORT_NAMES, all different and none 0; ``store`` is absolute. Raises
    ServeError for a port that cannot be.
    """
    for name in PORT_NAMES:
        if not 1 <= ports[name] <= 65535:
            raise ServeError(
                f"the {name} port {ports[name]} cannot be: choose one from 1 to 65535, or 0 for any free one"
            )
    for name, port in ports.items():
        twin = next((other for other in ports if other != name and ports[other] == port), None)
        if twin:
            raise ServeError(
                f"the ports for {name} and {twin} are both {port}: choose another for one of them"
            )
    return string.Template(TEMPLATE.read_text()).substitute(
        {f"{name}_port": port for name, port in ports.items()},
        model_store=escape(str(store)),
        allowed_urls=escape(allowed_urls(store)),
        max_request_size=settings.max_request_size,
        max_response_size=settings.max_response_size,
        job_queue_size=settings.job_queue_size,
        response_timeout=settings.response_timeout,
        startup_timeout=settings.startup_timeout,
        workers=settings.workers,
        metrics_config=escape(str(metrics_config())),
    )


def allowed_urls(store: Path) -> str:
    r"""A Java regular expression: ``file://`` URLs of archives that lie directly in ``store``, and nothing
    else.

    TorchServe downloads first and looks for ".." later, so the pattern itself must leave no room for it.
    TorchServe splits the value at commas: characters that are special, to it or to the expression, are
    written as ``\x{…}``.

    >>> allowed_urls(Path("/srv/store"))
    'file:///srv/store/[A-Za-z0-9_-][A-Za-z0-9._-]*[.]mar'
    """
    quoted = re.sub(r"[^A-Za-z0-9/_-]", lambda found: f"\\x{{{ord(found[0]):x}}}", str(store))
    return f"file://{quoted}/[A-Za-z0-9_-][A-Za-z0-9._-]*[.]mar"


def escape(value: str) -> str:
    r"""A value as Java's Properties reads it back: backslashes doubled, and UTF-16 escapes, since it reads
    Latin-1.

    >>> escape("/größe/a\\b")
    '/gr\\u00f6\\u00dfe/a\\\\b'
    """
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = (int.from_bytes(units[i : i + 2]) for i in range(0, len(units), 2))
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)


def metrics_config() -> Path:
    """The metrics that the handler declares, or else TorchServe's own list."""
    return OWN_METRICS if OWN_METRICS.exists() else torchserve_home() / "ts" / "configs" / "metrics.yaml"


def torchserve_home() -> Path:
    """The folder that holds the package ``ts``. Raises ServeError if TorchServe is not installed."""
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise ServeError(
            "TorchServe is not installed in this Python: run `make install`, and use .venv/bin/python"
        )
    return Path(spec.origin).parent.parent


def choose_ports(wanted: dict[str, int]) -> dict[str, int]:
    """``wanted`` with every 0 replaced by a free port. Raises ServeError naming a port that is taken."""
    sockets: list[socket.socket] = []
    chosen = dict(wanted)
    try:  # all are held until the last is chosen, so that no two get the same
        for name, port in sorted(wanted.items(), key=lambda item: item[1], reverse=True):
            listener = socket.socket()
            sockets.append(listener)
            # as TorchServe: TIME_WAIT does not count
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((LOOPBACK, port))
            except OverflowError as error:
                raise ServeError(
                    f"the {name} port {port} cannot be: choose one from 1 to 65535, or 0"
                ) from error
            except OSError as error:
                if port in (other.getsockname()[1] for other in sockets[:-1]):
                    continue  # two ports that are the same: render() names them
                raise ServeError(
                    f"port {port} (TorchServe's {name.replace('_', ' ')}) cannot be used "
                    f"({error.strerror}{owner(port)}): "
                    "stop that program, or choose another port with "
                    f"--{name.replace('_', '-')}-port (0 takes a free one)"
                ) from error
            listener.listen(1)
            chosen[name] = listener.getsockname()[1]
    finally:
        for listener in sockets:
            listener.close()
    return chosen


def owner(port: int) -> str:
    """`` by NAME, process 1234`` for who listens on ``port``, or nothing where that may not be seen."""
    try:
        import psutil

        for connection in psutil.net_connections("tcp"):
            here = connection.laddr and connection.laddr.port == port
            if here and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f" by {psutil.Process(connection.pid).name()}, process {connection.pid}"
    except Exception:  # noqa: S110, this only adorns a message; without rights or psutil there is none
        pass
    return ""
