"""``python -m serve_config.litserve CONFIG STORE``: run the frontend with TorchServe's config.properties."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import tempfile
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from serve_config.litserve.frontend import Frontend
from serve_config.litserve.keys import Keys
from serve_config.litserve.versions import Limits
from serve_config.server.properties import bind
from serve_config.server.state import Home

LOGS = {"ts_log": "ts_log.log", "MODEL_LOG": "model_log.log", "uvicorn.access": "access_log.log"}


def main(config: Path, store: Path) -> None:
    """Serve until SIGTERM."""
    home, settings = Home(config.parent), read_properties(config)
    write_logs(home.logs)
    asyncio.run(serve(home, settings, store))


async def serve(home: Home, settings: dict[str, str], store: Path) -> None:
    """Listen on the three ports; what comes in goes to the application of its port."""
    limits = Limits(
        queue_size=int(settings["job_queue_size"]),
        workers=int(settings["default_workers_per_model"]),
        response_timeout=int(settings["default_response_timeout"]),
        startup_timeout=int(settings["default_startup_timeout"]),
    )
    keys = Keys(home.key_file, int(settings["token_expiration_min"]))
    folder = Path(tempfile.gettempdir())  # Home.tmp, by TMPDIR
    frontend = Frontend(store, folder, keys, limits, int(settings["max_request_size"]))
    applications = {
        urlsplit(settings[f"{name}_address"]).port or 0: application
        for name, application in (
            ("inference", frontend.inference()),
            ("management", frontend.management()),
            ("metrics", frontend.monitoring()),
        )
    }

    async def by_port(scope: Any, receive: Any, send: Any) -> None:
        await applications[scope["server"][1]](scope, receive, send)

    sockets = []
    for port in applications:
        # asyncio sets TCP_NODELAY only where the protocol is named; without it an answer can wait 40 ms for an ACK
        sockets.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        bind(sockets[-1], port)
    config = uvicorn.Config(
        by_port, lifespan="off", log_config=None, server_header=False, timeout_graceful_shutdown=1
    )
    try:
        await uvicorn.Server(config).serve(sockets)
    finally:
        await frontend.close()


def read_properties(path: Path) -> dict[str, str]:
    """The keys of a config.properties."""
    lines = [line for line in path.read_text(encoding="latin-1").splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def write_logs(folder: Path) -> None:
    """Write TorchServe's logs in TorchServe's form, which serve_config/server/logs.py reads; 20 MB each, five old."""
    line = "%(asctime)s [%(levelname)-5s] %(who)s %(name)s - %(message)s"
    for name, file in LOGS.items():
        handler = RotatingFileHandler(folder / file, maxBytes=20_000_000, backupCount=5, encoding="utf-8")
        formatter = logging.Formatter(line, defaults={"who": "frontend"})
        formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
        handler.setFormatter(formatter)
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
