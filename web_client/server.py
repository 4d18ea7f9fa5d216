"""waitress, set up so that no upload touches the disk and even its own refusals have the one error shape."""

from __future__ import annotations

import json
from typing import Any

import waitress
from flask import Flask
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask

from web_client.app import FORM_BYTES
from web_client.errors import Refused, megabytes
from web_client.security import HEADERS

_REPLY_BYTES = 200_000_000  # no answer is that large; waitress would park larger ones in a temporary file


class JsonErrorTask(ErrorTask):
    """What waitress answers when a request never reaches the app: broken HTTP, or far too large."""

    def execute(self) -> None:
        max_bytes = self.channel.server.max_picture_bytes
        error = self.request.error
        refused = refused_by_waitress(error.code, max_bytes)
        body = json.dumps(refused.as_dict()).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.extend([("Content-Type", "application/json"), *HEADERS.items()])
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    error_task_class = JsonErrorTask


def refused_by_waitress(status: int, max_bytes: int) -> Refused:
    """The words for an error that waitress itself has found."""
    if status == 413:
        message = (
            f"This is far more than the {megabytes(max_bytes)} that a picture may have. Send a smaller one."
        )
        return Refused(413, "image_too_large", message, "image")
    if status >= 500:
        return Refused(status, "internal", "Something broke on our side. Your picture is fine: try again.")
    return Refused(
        status, "bad_request", "The server could not read this request. Reload the page and try again."
    )


def create_server(app: Flask, behind_proxy: bool = False) -> Any:
    """A waitress server that listens, not yet running: ``server.run()``. Raises OSError if the port is taken.

    Args:
        behind_proxy: the requests come from a tunnel on this machine; believe its ``X-Forwarded-For``.
    """
    # A picture that is somewhat too large is still read, because a browser that is cut off in the middle of
    # an upload shows a broken connection and not our sentence.
    most = 2 * (app.config["MAX_BYTES"] + FORM_BYTES)
    proxy = (
        {"trusted_proxy": "127.0.0.1", "trusted_proxy_headers": {"x-forwarded-for"}} if behind_proxy else {}
    )
    sockets: dict[int, Any] = {}
    try:
        server = waitress.create_server(
            app,
            map=sockets,
            host=app.config["HOST"],
            port=app.config["PORT"],
            threads=app.config["THREADS"],
            max_request_body_size=most,
            inbuf_overflow=most + 1,
            outbuf_overflow=_REPLY_BYTES,
            recv_bytes=2**18,  # a photo in a few reads; waitress's 8 kB take 60 turns of its loop
            connection_limit=1000,  # a browser holds six: 100 would be sixteen visitors
            asyncore_use_poll=True,  # select() ends at 1024 files
            clear_untrusted_proxy_headers=True,
            ident=None,
            **proxy,
        )
    except OSError:
        for half_made in list(sockets.values()):  # waitress leaves the socket that could not be bound
            half_made.close()
        raise
    for listener in sockets.values():
        if hasattr(listener, "channel_class"):
            listener.channel_class = _Channel
            listener.max_picture_bytes = app.config["MAX_BYTES"]
    return server


def address(server: Any) -> tuple[str, int]:
    """Host and port that the server listens on (the first, if the name has several addresses)."""
    listen = getattr(server, "effective_listen", None)
    return listen[0] if listen else (server.effective_host, server.effective_port)
