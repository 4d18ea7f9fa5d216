"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from serve_config.server.properties import DEFAULT_PORTS
from serve_config.server.state import Home


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


def with_ports(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--inference-port`` and the others; each is also an environment variable."""
    for name, port in reversed(DEFAULT_PORTS.items()):
        command = click.option(
            f"--{name.replace('_', '-')}-port",
            type=click.IntRange(0, 65535),
            envvar=f"SERVE_{name.upper()}_PORT",
            default=port,
            show_default=True,
            show_envvar=True,
            metavar="N",
            help="0 takes a free port.",
        )(command)
    return command


positive = click.IntRange(min=1)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def store_option(flag: str) -> Callable[..., Any]:
    """``flag`` as the option that names the model store."""
    folder = click.Path(path_type=Path)
    return click.option(
        flag, type=folder, default="model_store", show_default=True, metavar="DIR", help="Folder of archives."
    )
