"""The answers to requests that get no prediction.

::

    RequestError                 meant for the client: code, one sentence, the field, the HTTP status
    ├── BadRequest          400  the body or an option is wrong; the message says how to fix it
    ├── TooManyBytes        413  the file is larger than the server accepts
    ├── UnknownType         415  not one of the image formats, or an unsupported kind of body
    ├── Unprocessable       422  well-formed, but beyond the server's limits
    └── NoRoom              503  the image did not fit into memory even by itself

Every other exception is an internal error: it is logged with the request's id and answered by :data:`INTERNAL_ERROR`,
which shows nothing of it. All have one shape: ``{"error": {"code": "...", "message": "...", "field": "..."}}``, with
``field`` null where no field is at fault.
"""

from __future__ import annotations


class RequestError(Exception):
    """One request is refused.

    ``code`` is for programs and keeps its meaning; ``message`` is one sentence for people; ``field`` names the part
    of the request at fault as the client spelled it (``options.score_threshold`` in a JSON body is
    ``score_threshold``). None of them may contain a path or any part of a stack trace.
    """

    status = 400

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field

    def body(self) -> dict:
        """The JSON document of this error."""
        return error_body(self.code, self.message, self.field)


class BadRequest(RequestError):
    status = 400


class TooManyBytes(RequestError):
    status = 413


class UnknownType(RequestError):
    status = 415


class Unprocessable(RequestError):
    status = 422


class NoRoom(RequestError):
    status = 503


def error_body(code: str, message: str, field: str | None = None) -> dict:
    """The one JSON shape of every error."""
    return {"error": {"code": code, "message": message, "field": field}}


INTERNAL_ERROR = error_body(
    "internal_error", "The server failed on this request; its log has the details under the request id."
)
"""What a client sees of an internal error (status 500)."""


def quoted(value: object, limit: int = 40) -> str:
    """``value`` made safe to repeat in a message: printable ASCII, at most ``limit`` characters.

    >>> quoted("sc\\nore")
    "'sc\\\\nore'"
    """
    text = ascii(value) if not isinstance(value, str) else ascii(value[: limit + 1])
    return text if len(text) <= limit + 2 else text[:limit] + "…'"
