"""waitress, configured so that no upload touches the disk and its own errors have the app's error shape."""

from __future__ import annotations

import json
import socket
from typing import Any

import waitress
from flask import Flask
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask
from waitress.utilities import Error

from web_client.app import FORM_BYTES
from web_client.errors import ApiError, WebClientError, from_http
from web_client.server.middleware import HEADERS

WAITING_BYTES = 256_000_000  # budget for all uploads in memory
_RESPONSE_BYTES = 200_000_000  # waitress writes a larger response to a temporary file; ours are smaller


class JsonErrorTask(ErrorTask):
    """Waitress's response to a request that never reaches the app: broken HTTP, or far too large."""

    def execute(self) -> None:
        error = self.request.error
        if isinstance(error, _TooMuchAtOnce):
            message = "Too many pictures are being uploaded at once. Try again in a minute."
            shown = ApiError(error.code, "too_busy", message, retry_after=60)
        else:
            status = error.code if error.code in (413, 500) else 400
            shown = from_http(status, self.channel.server.max_picture_bytes)
        body = json.dumps(shown.as_dict()).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.extend([("Content-Type", "application/json"), *HEADERS.items()])
        if shown.retry_after:
            self.response_headers.append(("Retry-After", str(shown.retry_after)))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _TooMuchAtOnce(Error):
    code = 503
    reason = "Service Unavailable"


class _Channel(HTTPChannel):
    """A connection. Uploads stay in memory, so all connections share a budget; the upload that exceeds it gets a
    503, and a crowd of slow uploads cannot exhaust the machine's memory.
    """

    error_task_class = JsonErrorTask
    request: HTTPRequestParser | None

    def received(self, data: bytes) -> bool:
        """Called by waitress's loop with the bytes received."""
        upload = self.request
        if upload is None or self._waiting_bytes() <= self.server.max_waiting_bytes:
            return bool(super().received(data))
        with self.requests_lock:
            if not (self.will_close or self.close_when_flushed):
                upload.error = _TooMuchAtOnce("")
                upload.completed = True
                self.request = None
                self.requests.append(upload)
                if len(self.requests) == 1:
                    self.server.add_task(self)
        return False

    def _waiting_bytes(self) -> int:
        """Bytes of the uploads without a response yet, over all connections."""
        channels = list(self.server.active_channels.values())
        uploads = [
            upload for channel in channels for upload in (channel.request, *channel.requests) if upload
        ]
        return sum(upload.body_bytes_received for upload in uploads)


def create_server(app: Flask) -> Any:
    """A waitress server that listens; ``server.run()`` serves. Raises WebClientError."""
    host, port = app.config["HOST"], app.config["PORT"]
    # Read a picture that is somewhat too large to its end: a browser that is cut off in the middle of an upload
    # shows a broken connection instead of our message.
    most = 2 * (app.config["MAX_BYTES"] + FORM_BYTES)
    trusted = app.config["TRUSTED_PROXY"]
    proxy = {"trusted_proxy": trusted, "trusted_proxy_headers": {"x-forwarded-for"}} if trusted else {}
    sockets: dict[int, Any] = {}
    try:
        socket.getaddrinfo(host, port)  # waitress raises a ValueError for an unknown host
        server = waitress.create_server(
            app,
            map=sockets,
            host=host,
            port=port,
            threads=app.config["THREADS"],
            max_request_body_size=most,
            inbuf_overflow=most + 1,
            outbuf_overflow=_RESPONSE_BYTES,
            recv_bytes=2**18,  # a photo in a few reads; waitress's 8 kB take 60 turns of its loop
            connection_limit=1000,  # a browser holds six: the default of 100 would be sixteen visitors
            asyncore_use_poll=True,  # select() fails above 1,024 files
            clear_untrusted_proxy_headers=True,
            ident=None,
            **proxy,
        )
    except OSError as error:
        for unbound in list(sockets.values()):  # waitress leaves the socket open that it could not bind
            unbound.close()
        message = f"Cannot listen on {host}:{port} ({error}); choose another --host or --port."
        raise WebClientError(message) from None
    for listener in sockets.values():
        if hasattr(listener, "channel_class"):
            listener.channel_class = _Channel
            listener.max_picture_bytes = app.config["MAX_BYTES"]
            listener.max_waiting_bytes = max(WAITING_BYTES, 2 * most)
    return server


def address(server: Any) -> tuple[str, int]:
    """The host and port that the server listens on (the first, if the name has several addresses)."""
    listen = getattr(server, "effective_listen", None)
    return listen[0] if listen else (server.effective_host, server.effective_port)
