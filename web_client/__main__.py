"""``python -m web_client``: the page, served by waitress."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from web_client import settings
from web_client.app import create_app
from web_client.server import address, create_server
from web_client.tunnel import TunnelError, open_tunnel


def parser() -> argparse.ArgumentParser:
    """Every option of ``settings.SETTINGS``, its default from the environment, and ``--public``."""
    values = settings.from_environment()
    result = argparse.ArgumentParser(
        prog="python -m web_client",
        description="The page that shows the masks. Every option is an environment variable, too.",
    )
    for setting in settings.SETTINGS:
        result.add_argument(
            setting.flag,
            dest=setting.name,
            default=values[setting.name],
            type=type(setting.default),
            metavar=setting.name.rpartition("_")[2],
            help=f"{setting.help} (default: {str(setting.default) or 'none'}; environment: {setting.env})",
        )
    result.add_argument(
        "--public",
        action="store_true",
        help="open a tunnel with ngrok; needs NGROK_AUTHTOKEN in the environment",
    )
    return result


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl-C. Returns the exit status."""
    try:
        options = parser().parse_args(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = {setting.name: getattr(options, setting.name) for setting in settings.SETTINGS}
    try:
        server = create_server(create_app(config), behind_proxy=options.public)
    except (OSError, ValueError) as error:
        wanted = f"{options.HOST}:{options.PORT}"
        print(f"error: cannot listen on {wanted} ({error}); choose another --port", file=sys.stderr)
        return 1
    host, port = address(server)
    print(f"The page: http://{host}:{port}/", flush=True)
    close_tunnel = _go_public(port) if options.public else None
    try:
        server.run()  # until Ctrl-C, which waitress takes for a wish to stop
    finally:
        if close_tunnel:
            close_tunnel()
        server.close()
    return 130


def _go_public(port: int) -> Callable[[], None] | None:
    """Open the tunnel, or say why not: the page is there for this machine all the same."""
    try:
        url, close = open_tunnel(port)
    except TunnelError as error:
        print(f"note: {error}", file=sys.stderr, flush=True)
        return None
    print(f"The page, for everybody who has the address: {url}", flush=True)
    return close


if __name__ == "__main__":
    sys.exit(main())
