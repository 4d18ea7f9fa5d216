"""Every request gets an id and one log line, every response the security headers."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any

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
    write_log = _access_log(app) if app.config["ACCESS_LOG"] else _log_for_people

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
        write_log(response, round(1000 * (time.perf_counter() - g.started), 1))
        return response


def _log_for_people(response: Response, milliseconds: float) -> None:
    """The route and not the URL, which can carry anything: no file name, picture or key."""
    route = request.url_rule.rule if request.url_rule else "-"
    size = request.content_length or 0
    facts = (g.request_id, request.method, route, response.status_code, milliseconds, size)
    log.info("%s %s %s %s %.0f ms %s bytes", *facts)


def _access_log(app: Flask) -> Callable[[Response, float], None]:
    """A line of JSON for each request, in a file that may be rotated or on stdout.

    It has the path without the query, and no address of a visitor: those are personal data, and the proxy's log has
    them under the same request id.
    """
    target = app.config["ACCESS_LOG"]
    try:
        handler = (
            logging.StreamHandler(sys.stdout)
            if target == "-"
            else WatchedFileHandler(target, encoding="utf-8")
        )
    except OSError as error:
        raise WebClientError(
            f"the access log {target} cannot be written ({error.strerror}): choose another file"
        ) from None
    app.extensions["access_log"] = handler

    def write(response: Response, milliseconds: float) -> None:
        token = g.get("token")
        facts: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": g.request_id,
            "method": request.method,
            "path": request.path[:200],
            "status": response.status_code,
            "ms": milliseconds,
            "received": request.content_length or 0,
            "sent": response.content_length or 0,
            "token": token.name if token else None,
        }
        handler.handle(logging.makeLogRecord({"msg": json.dumps(facts)}))

    return write
