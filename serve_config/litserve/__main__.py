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
from serve_config.server.properties import bind
from serve_config.server.state import Home

LOGS = {"ts_log": "ts_log.log", "MODEL_LOG": "model_log.log", "uvicorn.access": "access_log.log"}


async def serve(config: Path, store: Path) -> None:
    """Serve until SIGTERM. Each of the three ports has an application of its own."""
    home = Home(config.parent)
    write_logs(home.logs)
    lines = [line for line in config.read_text(encoding="latin-1").splitlines() if line and line[0] != "#"]
    settings = dict(line.split("=", 1) for line in lines)
    keys = Keys(home.key_file, int(settings["token_expiration_min"]))
    frontend = Frontend(store, Path(tempfile.gettempdir()), keys, settings)  # Home.tmp, by TMPDIR
    applications = {
        urlsplit(settings[f"{name}_address"]).port or 0: application
        for name, application in frontend.applications().items()
    }

    async def by_port(scope: Any, receive: Any, send: Any) -> None:
        await applications[scope["server"][1]](scope, receive, send)

    sockets = []
    for port in applications:
        # asyncio sets TCP_NODELAY only where the protocol is named; without it an answer can wait 40 ms for an ACK
        sockets.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        bind(sockets[-1], port)
    settled = uvicorn.Config(
        by_port, lifespan="off", log_config=None, server_header=False, timeout_graceful_shutdown=1
    )
    try:
        await uvicorn.Server(settled).serve(sockets)
    finally:
        await frontend.close()


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
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
