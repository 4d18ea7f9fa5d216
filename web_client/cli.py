"""``maskrcnn web``: serve the page and the public API."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from web_client import config

EPILOG = """\b
Examples:
  maskrcnn web
  maskrcnn web --port 8000 --rate-limit "20 per minute"
  maskrcnn web token add anna --days 90
  maskrcnn web --host 0.0.0.0 --token-file .serve/tokens.json
  maskrcnn web --review .serve/review --review-days 14
  LABEL_STUDIO_API_KEY=... maskrcnn web --label-studio http://127.0.0.1:8090
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
            show_default="none" if setting.default == "" else True,
            show_envvar=True,
            help=setting.help,
        )
        command = option(command)
    return command


@click.group(epilog=EPILOG, invoke_without_command=True)
@_settings_as_options
@click.option("--public", is_flag=True, help="Also open a public address with ngrok; needs NGROK_AUTHTOKEN.")
@click.pass_context
def web(context: click.Context, public: bool, **settings: Any) -> None:
    """Serve the page and the public API in front of TorchServe."""
    if context.invoked_subcommand is None:
        _serve(public, settings)


def _serve(public: bool, settings: dict[str, Any]) -> None:
    from web_client.app import create_app
    from web_client.server.listener import address, create_server

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
        url = f"http://{'[' + host + ']' if ':' in host else host}:{port}/"
        click.echo(url, err=settings["ACCESS_LOG"] == "-")
        click.echo(_who_is_served(settings), err=True)
        if settings["REVIEW"]:
            click.echo(f"Review store: on. {settings['REVIEW']} keeps pictures of visitors.", err=True)
        server.run()  # returns after Ctrl-C or SIGTERM
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        if close_tunnel:
            close_tunnel()
        server.close()
    if not terminated:
        raise KeyboardInterrupt


def _who_is_served(settings: dict[str, Any]) -> str:
    if settings["TOKEN_FILE"]:
        return f"Tokens: on. Only callers with a token of {settings['TOKEN_FILE']} are served."
    return "Tokens: off. Everybody who reaches this address is served (see `maskrcnn web token --help`)."


def _open_tunnel(port: int) -> Callable[[], None] | None:
    """Open the tunnel and print its address; on failure print why and go on serving locally."""
    from web_client.errors import TunnelError
    from web_client.server.listener import open_tunnel

    try:
        url, close = open_tunnel(port)
    except TunnelError as error:
        click.echo(f"Warning: {error.message}", err=True)
        return None
    click.echo(f"Public address: {url}", err=True)
    return close


_file = click.option(
    "--file",
    type=click.Path(path_type=Path),
    default=Path(".serve/tokens.json"),
    envvar="WEB_CLIENT_TOKEN_FILE",
    show_default=True,
    show_envvar=True,
    help="The token file; `maskrcnn web --token-file` takes the same.",
)


@web.group()
def token() -> None:
    """Make, list and revoke the tokens that callers must show.

    A running server sees each change at once.
    """


@token.command()
@click.argument("name")
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    help="Expire after this many days [default: never].",
)
@click.option(
    "--rate-limit",
    type=config.RATE_LIMIT_TYPE,
    metavar="LIMIT",
    help="This token's own limit, such as '600 per minute' [default: the server's].",
)
@_file
def add(name: str, days: float | None, rate_limit: str | None, file: Path) -> None:
    """Make a token for NAME and print it, once: only its hash is kept.

    \b
    Example:
      maskrcnn web token add anna --days 90 --rate-limit "600 per minute"
    """
    from web_client.server.tokens import TokenFile

    click.echo(TokenFile(file).add(name, days, rate_limit))


@token.command("list")
@_file
def list_(file: Path) -> None:
    """Print name, expiry and limit of each token.

    \b
    Example:
      maskrcnn web token list
    """
    from web_client.server.tokens import TokenFile

    for entry in TokenFile(file).all():
        expires = f"expired {entry.expires}" if entry.is_expired else f"until {entry.expires or 'revoked'}"
        click.echo(f"{entry.name:24} {expires:34} {entry.rate_limit or ''}".rstrip())


@token.command()
@click.argument("name")
@_file
def revoke(name: str, file: Path) -> None:
    """Remove the token of NAME.

    \b
    Example:
      maskrcnn web token revoke anna
    """
    from web_client.server.tokens import TokenFile

    TokenFile(file).revoke(name)
    click.echo(file)
