"""A public address by way of ngrok, for showing the page to somebody elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable


class TunnelError(Exception):
    """The tunnel did not open; the message says why and what to do."""


def open_tunnel(port: int) -> tuple[str, Callable[[], None]]:
    """Forward a public https address to this machine's ``port``. Answers the address and a function that
    closes it."""
    if not os.environ.get("NGROK_AUTHTOKEN"):
        raise TunnelError(
            "the page is not public: NGROK_AUTHTOKEN is not set; get a token at https://dashboard.ngrok.com "
            "and export it"
        )
    try:
        import ngrok
    except ImportError:
        raise TunnelError("the page is not public: the package ngrok is missing; pip install ngrok") from None
    try:
        listener = ngrok.forward(port, authtoken_from_env=True)
    except Exception as error:  # the package raises plain RuntimeErrors and ValueErrors of its own library
        reason = str(error).strip().partition("\n")[0]
        raise TunnelError(f"the page is not public: ngrok did not open a tunnel ({reason})") from None
    url = listener.url()
    return url, lambda: ngrok.disconnect(url)
