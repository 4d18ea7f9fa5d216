"""``maskrcnn web``: serve the page and the public API."""

from __future__ import annotations

import logging
import signal
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

Ctrl-C or SIGTERM stops it; requests in progress get five more seconds.
"""


@click.group(epilog=EPILOG, invoke_without_command=True, params=list(config.OPTIONS))
@click.pass_context
def web(context: click.Context, **settings: Any) -> None:
    """Serve the page and the public API in front of TorchServe."""
    if context.invoked_subcommand is None:
        _serve(settings)


def _serve(settings: dict[str, Any]) -> None:
    from web_client.app import create_app
    from web_client.server.listener import address, create_server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    server = create_server(create_app(settings))
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        raise SystemExit  # waitress finishes the requests in progress

    # A shell's background job starts with SIGINT ignored, and the first process of a container ignores a SIGTERM
    # that it does not handle.
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    host, port = address(server)
    click.echo(f"http://{f'[{host}]' if ':' in host else host}:{port}/", err=settings["ACCESS_LOG"] == "-")
    who = "Tokens: off. Everybody who reaches this address is served (see `maskrcnn web token --help`)."
    if settings["TOKEN_FILE"]:
        who = f"Tokens: on. Only callers with a token of {settings['TOKEN_FILE']} are served."
    click.echo(who, err=True)
    if settings["REVIEW"]:
        click.echo(f"Review store: on. {settings['REVIEW']} keeps pictures of visitors.", err=True)
    server.run()
    if signal.SIGINT in received:
        raise KeyboardInterrupt


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
    type=config.rate_limit,
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
