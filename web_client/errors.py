"""One exception, one error shape, over every route.

Whatever goes wrong reaches the browser as ``{"error": {"code", "message", "field"}}`` (Contract 2), or, where
a person without JavaScript is looking, as the page with the same sentence on it.
"""

from __future__ import annotations

import logging

from flask import Flask, Response, jsonify, make_response, render_template, request
from werkzeug.exceptions import HTTPException

log = logging.getLogger("web_client")


class Refused(Exception):
    """A request that gets no masks, and why.

    Args:
        status: HTTP status of the answer.
        code: short name for programs, such as ``image_too_large``.
        message: a sentence for people: what is wrong and the way on.
        field: the form field that is to blame, if one is.
        retry_after: seconds after which trying again makes sense, if it does.
    """

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after

    def as_dict(self) -> dict[str, dict[str, str | None]]:
        return {"error": {"code": self.code, "message": self.message, "field": self.field}}


def megabytes(count: int) -> str:
    """``16000000`` → ``"16 MB"``."""
    return f"{count / 1e6:.3g} MB"


def too_many_bytes(limit: int) -> Refused:
    message = f"This picture is too large: more than {megabytes(limit)}. Make it smaller and send it again."
    return Refused(413, "image_too_large", message, "image")


_SENTENCES = {
    400: ("bad_request", "The server could not read this request. Reload the page and try again."),
    404: ("not_found", "There is nothing at this address. The page itself is at /."),
    405: ("method_not_allowed", "This address does not answer that kind of request."),
    415: ("unsupported_media_type", "Send the picture as a form (multipart/form-data)."),
    429: ("too_many_requests", "That was a lot of pictures at once. Wait a minute, then go on."),
}


def from_http(error: HTTPException, max_bytes: int) -> Refused:
    """Put one of Werkzeug's or Flask-Limiter's exceptions into words."""
    status = error.code or 500
    if status == 413:
        return too_many_bytes(max_bytes)
    if status in _SENTENCES:
        code, message = _SENTENCES[status]
        return Refused(status, code, message, retry_after=60 if status == 429 else None)
    return Refused(status, (error.name or "error").lower().replace(" ", "_"), error.description or "Refused.")


def answer(error: Refused) -> Response:
    """The refusal as the page for a person who sent the form, as JSON for everybody else."""
    accepts = request.accept_mimetypes
    wants_page = not request.path.startswith("/api/") and accepts["text/html"] > accepts["application/json"]
    body = render_template("index.html", error=error) if wants_page else jsonify(error.as_dict())
    response = make_response(body, error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def register(app: Flask) -> None:
    """Make every route of ``app`` answer errors in the one shape."""

    @app.errorhandler(Refused)
    def refused(error: Refused) -> Response:
        return answer(error)

    @app.errorhandler(HTTPException)
    def http_exception(error: HTTPException) -> Response:
        response = answer(from_http(error, app.config["MAX_BYTES"]))
        if allow := error.get_response().headers.get("Allow"):
            response.headers["Allow"] = allow
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.exception("unexpected error")
        return answer(
            Refused(500, "internal", "Something broke on our side. Your picture is fine: try again.")
        )
