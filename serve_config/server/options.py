"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from serve_config.server.properties import DEFAULT_PORTS
from serve_config.server.state import Home

positive = click.IntRange(min=1)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def say(message: str) -> None:
    """Report progress, on stderr."""
    click.echo(message, err=True)


def at_home(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--home``, and call the command with that :class:`Home`."""
    return click.option(
        "--home",
        envvar="SERVE_HOME",
        default=".serve",
        show_default=True,
        show_envvar=True,
        metavar="DIR",
        callback=lambda _context, _option, value: Home.at(value),
        help="State folder.",
    )(command)


def with_client(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--home``, and call the command with the :class:`serve_config.models.client.Client` of its server."""

    @at_home
    @wraps(command)
    def call(home: Home, **options: Any) -> Any:
        from serve_config.models.client import Client

        return command(Client(home), **options)

    return call


def with_ports(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--inference-port`` and the others, each also an environment variable; the command gets ``ports``."""

    @wraps(command)
    def call(**options: Any) -> Any:
        ports = {name: options.pop(f"{name}_port") for name in DEFAULT_PORTS}
        return command(ports=ports, **options)

    for name, port in reversed(DEFAULT_PORTS.items()):
        call = click.option(
            f"--{name.replace('_', '-')}-port",
            type=click.IntRange(0, 65535),
            envvar=f"SERVE_{name.upper()}_PORT",
            default=port,
            show_default=True,
            show_envvar=True,
            metavar="N",
            help="0 takes a free port.",
        )(call)
    return call
