"""``maskrcnn web``: serve the page and the public API."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import click

from web_client import config

EPILOG = """\b
Examples:
  maskrcnn web
  maskrcnn web --port 8000 --rate-limit "20 per minute"
  NGROK_AUTHTOKEN=... maskrcnn web --public

Ctrl-C or SIGTERM stops it; requests in progress get five more seconds.
"""


def _settings_as_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each of ``config.SETTINGS``, in their order."""
    for setting in reversed(config.SETTINGS):
        option = click.option(
            setting.flag,
            setting.name,
            type=setting.type,
            default=setting.default,
            envvar=setting.env,
            show_default=True,
            show_envvar=True,
            help=setting.help,
        )
        command = option(command)
    return command


@click.command(epilog=EPILOG)
@_settings_as_options
@click.option("--public", is_flag=True, help="Also open a public address with ngrok; needs NGROK_AUTHTOKEN.")
def web(public: bool, **settings: Any) -> None:
    """Serve the page and the public API in front of TorchServe."""
    from web_client.app import create_app
    from web_client.server import address, create_server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if public:
        settings["TRUSTED_PROXY"] = "127.0.0.1"  # ngrok's agent runs on this machine
    server = create_server(create_app(settings))
    host, port = address(server)
    close_tunnel = _open_tunnel(port) if public else None
    terminated = False

    def terminate(_number: int, _frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        raise SystemExit  # waitress stops on this as it does on KeyboardInterrupt

    # A shell's background job starts with SIGINT ignored, and the first process of a container ignores a SIGTERM
    # that it does not handle.
    former = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminate),
    }
    try:
        click.echo(f"http://{'[' + host + ']' if ':' in host else host}:{port}/")
        server.run()  # returns after Ctrl-C or SIGTERM
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        if close_tunnel:
            close_tunnel()
        server.close()
    if not terminated:
        raise KeyboardInterrupt


def _open_tunnel(port: int) -> Callable[[], None] | None:
    """Open the tunnel and print its address; on failure print why and go on serving locally."""
    from web_client.errors import TunnelError
    from web_client.server import open_tunnel

    try:
        url, close = open_tunnel(port)
    except TunnelError as error:
        click.echo(f"Warning: {error.message}", err=True)
        return None
    click.echo(f"Public address: {url}", err=True)
    return close
