"""Errors for visitors, in one shape over every route, and errors for the operator.

    ApiError          a request without a prediction, and why
    WebClientError    a command that cannot go on (click prints it; exit status 1)

A visitor gets ``{"error": {"code", "message", "field"}}`` (Contract 2), or the page with the same message where the
form was sent without JavaScript.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import click
from flask import Flask, Response, jsonify, make_response, render_template, request
from werkzeug.exceptions import HTTPException

log = logging.getLogger("web_client")


class WebClientError(click.ClickException):
    """What the operator must know, in one sentence that names the cure."""


@dataclass(eq=False)
class ApiError(Exception):
    """A request that gets no prediction.

    Args:
        status: HTTP status of the response.
        code: short name for programs, such as ``image_too_large``.
        message: what is wrong and what to do, for people.
        field: the form field at fault, if any.
        retry_after: seconds after which another try makes sense, if it does.
    """

    status: int
    code: str
    message: str
    field: str | None = None
    retry_after: int | None = None

    def as_dict(self) -> dict[str, dict[str, str | None]]:
        return {"error": {"code": self.code, "message": self.message, "field": self.field}}


def too_many_bytes(limit: int) -> ApiError:
    message = f"This picture is larger than {limit / 1e6:.3g} MB. Make it smaller and send it again."
    return ApiError(413, "image_too_large", message, "image")


def no_model() -> ApiError:
    return ApiError(503, "no_model", "No model is ready yet. Try again in a minute.", retry_after=60)


def unexpected_answer() -> ApiError:
    message = "The model sent an unexpected answer. Try again in a minute."
    return ApiError(502, "odd_answer", message, retry_after=60)


_HTTP_ERRORS = {
    400: ("bad_request", "The server could not read this request. Reload the page and try again."),
    404: ("not_found", "There is nothing at this address. Go to / for the page."),
    405: ("method_not_allowed", "This address does not accept this HTTP method."),
    415: ("unsupported_media_type", "Send the picture as a form (multipart/form-data)."),
    429: ("too_many_requests", "Too many pictures in a short time. Wait a minute, then try again."),
    500: ("internal", "Something went wrong on our side, not with your picture. Try again."),
}


def from_http(status: int, max_bytes: int, name: str = "internal") -> ApiError:
    """The error for an HTTP status that Werkzeug, Flask-Limiter or waitress chose."""
    if status == 413:
        return too_many_bytes(max_bytes)
    code, message = _HTTP_ERRORS.get(status, (name.lower().replace(" ", "_"), "This request was refused."))
    return ApiError(status, code, message, retry_after=60 if status == 429 else None)


def respond(error: ApiError) -> Response:
    """The page for a person who sent the form, JSON for everybody else."""
    accepts = request.accept_mimetypes
    wants_page = not request.path.startswith("/api/") and accepts["text/html"] > accepts["application/json"]
    body = render_template("index.html", error=error) if wants_page else jsonify(error.as_dict())
    response = make_response(body, error.status)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def register(app: Flask) -> None:
    """Make every route of ``app`` answer errors in the one shape."""
    app.register_error_handler(ApiError, respond)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        response = respond(from_http(error.code or 500, app.config["MAX_BYTES"], error.name))
        if allow := error.get_response().headers.get("Allow"):
            response.headers["Allow"] = allow
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.exception("unexpected error")
        return respond(from_http(500, app.config["MAX_BYTES"]))
