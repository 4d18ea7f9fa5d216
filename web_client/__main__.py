"""``python -m web_client``: the page, served by waitress."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType

from web_client import config
from web_client.app import create_app
from web_client.server import address, create_server
from web_client.tunnel import TunnelError, open_tunnel


def parser() -> argparse.ArgumentParser:
    """Every option of ``config.SETTINGS``, its default from the environment, and ``--public``."""
    values = config.from_environment()
    result = argparse.ArgumentParser(
        prog="python -m web_client",
        description="The page that shows the masks. Every option is an environment variable, too.",
    )
    for setting in config.SETTINGS:
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
    """Serve until Ctrl-C or SIGTERM; what is being answered has five seconds more. Returns the exit status."""
    try:
        options = parser().parse_args(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    given = {setting.name: getattr(options, setting.name) for setting in config.SETTINGS}
    if options.public:
        given["TRUSTED_PROXY"] = "127.0.0.1"  # the tunnel's end is on this machine
    try:
        server = create_server(create_app(given))
    except (OSError, ValueError) as error:
        wanted = f"{options.HOST}:{options.PORT}"
        print(f"error: cannot listen on {wanted} ({error}); choose another --port", file=sys.stderr)
        return 1
    host, port = address(server)
    print(f"The page: http://{host}:{port}/", flush=True)
    close_tunnel = _go_public(port) if options.public else None
    terminated = []

    def terminate(number: int, _frame: FrameType | None) -> None:
        terminated.append(number)
        raise SystemExit  # waitress takes it, as it does Ctrl-C, for a wish to stop

    # the first process of a container has no default for SIGTERM: without this it would not end
    former = signal.signal(signal.SIGTERM, terminate)
    try:
        server.run()
    finally:
        signal.signal(signal.SIGTERM, former)
        if close_tunnel:
            close_tunnel()
        server.close()
    return 0 if terminated else 130


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
