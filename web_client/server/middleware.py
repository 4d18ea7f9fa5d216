"""Every request gets an id and one log line, every response the security headers."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler

from flask import Flask, Response, g, request

from web_client.errors import ApiError, WebClientError

log = logging.getLogger("web_client")

# Everything comes from this server; images may also be made by the page (blob:) or embedded in it (data:).
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), payment=(), usb=()",
}


def register(app: Flask) -> None:
    """Add request ids, the log line and the headers to every route of ``app``.

    Raises:
        WebClientError: the access log cannot be written.
    """
    access_log = _open(app.config["ACCESS_LOG"])
    app.extensions["access_log"] = access_log

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        given = request.headers.get("X-Request-ID", "")
        g.request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex
        if request.method == "POST" and request.headers.get("Sec-Fetch-Site") == "cross-site":
            raise ApiError(
                403,
                "cross_site",
                "Another site tried to send a picture in your name. The request was blocked.",
            )

    @app.after_request
    def finish(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers[name] = value
        if request.endpoint != "static":
            response.headers["Cache-Control"] = "no-store"
        response.headers["X-Request-ID"] = g.request_id
        token = g.get("token")
        facts = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": g.request_id,
            "method": request.method,
            # The route and not the URL, which can carry anything: no file name, picture or key.
            "path": request.url_rule.rule if request.url_rule else None,
            "status": response.status_code,
            "ms": round(1000 * (time.perf_counter() - g.started), 1),
            "received": request.content_length or 0,
            "sent": response.content_length or 0,
            "token": token.name if token else None,
        }
        if access_log:
            access_log.handle(logging.makeLogRecord({"msg": json.dumps(facts)}))
        else:
            log.info("%(id)s %(method)s %(path)s %(status)s %(ms).0f ms %(received)s bytes", facts)
        return response


def _open(target: str) -> logging.Handler | None:
    """The access log: a file that may be rotated, or ``-`` for stdout."""
    try:
        if target == "-":
            return logging.StreamHandler(sys.stdout)
        return WatchedFileHandler(target, encoding="utf-8") if target else None
    except OSError as error:
        raise WebClientError(
            f"the access log {target} cannot be written ({error.strerror}): choose another file"
        ) from None
