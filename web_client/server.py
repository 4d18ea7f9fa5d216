"""waitress, set up so that no upload touches the disk and even its own refusals have the one error shape."""

from __future__ import annotations

import json
from typing import Any

import waitress
from flask import Flask
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask
from waitress.utilities import Error

from web_client.app import FORM_BYTES
from web_client.errors import Refused, megabytes
from web_client.middleware import HEADERS

WAITING_BYTES = 256_000_000  # of uploads at once, in memory
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
        if refused.retry_after:
            self.response_headers.append(("Retry-After", str(refused.retry_after)))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _TooMuchAtOnce(Error):
    code = 503
    reason = "Service Unavailable"


class _Channel(HTTPChannel):
    """A connection. Its uploads stay in memory, so all connections together get a budget, and the one that would
    exceed it is told to come again: a crowd of slow uploads cannot use up the machine.
    """

    error_task_class = JsonErrorTask
    request: HTTPRequestParser | None

    def received(self, data: bytes) -> bool:
        """Called by waitress's loop with what has come in."""
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
        """What has been uploaded and not been answered yet, over all connections."""
        channels = list(self.server.active_channels.values())
        uploads = [
            upload for channel in channels for upload in (channel.request, *channel.requests) if upload
        ]
        return sum(upload.body_bytes_received for upload in uploads)


def refused_by_waitress(status: int, max_bytes: int) -> Refused:
    """The words for an error that waitress itself has found."""
    if status == 413:
        message = (
            f"This is far more than the {megabytes(max_bytes)} that a picture may have. Send a smaller one."
        )
        return Refused(413, "image_too_large", message, "image")
    if status == _TooMuchAtOnce.code:
        message = "Too many pictures are on their way at once. Try again in a minute."
        return Refused(503, "too_busy", message, retry_after=60)
    if status >= 500:
        return Refused(status, "internal", "Something broke on our side. Your picture is fine: try again.")
    return Refused(
        status, "bad_request", "The server could not read this request. Reload the page and try again."
    )


def create_server(app: Flask) -> Any:
    """A waitress server that listens, not yet running: ``server.run()``. Raises OSError if the port is taken."""
    # A picture that is somewhat too large is still read, because a browser that is cut off in the middle of
    # an upload shows a broken connection and not our sentence.
    most = 2 * (app.config["MAX_BYTES"] + FORM_BYTES)
    trusted = app.config["TRUSTED_PROXY"]
    proxy = {"trusted_proxy": trusted, "trusted_proxy_headers": {"x-forwarded-for"}} if trusted else {}
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
            listener.max_waiting_bytes = max(WAITING_BYTES, 2 * most)
    return server


def address(server: Any) -> tuple[str, int]:
    """Host and port that the server listens on (the first, if the name has several addresses)."""
    listen = getattr(server, "effective_listen", None)
    return listen[0] if listen else (server.effective_host, server.effective_port)
