"""What the handler answers when it does not answer with a prediction.

::

    RequestError                 meant for the client: code, one sentence, the field, the HTTP status
    ├── BadRequest          400  the body or an option is wrong; the sentence says how to mend it
    ├── TooManyBytes        413  the file is larger than the server takes
    ├── UnknownType         415  not one of the picture formats, or a body of another kind
    ├── Unprocessable       422  well-formed, but more than the server is willing to work on
    └── NoRoom              503  the picture did not fit into memory even by itself

Everything else that is raised is a fault of ours: it is logged with the request's id and answered by
:data:`INTERNAL_ERROR`, which shows nothing of it. All of them have one shape on the wire:
``{"error": {"code": "...", "message": "...", "field": "..."}}`` (``field`` is null where none is to blame).
"""

from __future__ import annotations


class RequestError(Exception):
    """A refusal of one request, told in one plain sentence.

    ``code`` is for programs and never changes its meaning; ``message`` is for people; ``field`` names the
    part of the request that is to blame, as the client spelled it (``options.score_threshold`` in a JSON body
    is ``score_threshold``). None of them may hold a path or anything of a stack trace.
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
    "internal_error", "The server failed on this request; its log tells more by the request id."
)
"""What a client sees of a fault of ours (status 500)."""


def quoted(value: object, limit: int = 40) -> str:
    """``value`` as it may be repeated in a message: printable ASCII, at most ``limit`` characters.

    >>> quoted("sc\\nore")
    "'sc\\\\nore'"
    """
    text = ascii(value) if not isinstance(value, str) else ascii(value[: limit + 1])
    return text if len(text) <= limit + 2 else text[:limit] + "…'"
