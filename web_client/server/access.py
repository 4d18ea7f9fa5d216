"""Who may send pictures, and how many: bearer tokens and rate limits."""

from __future__ import annotations

import logging
from pathlib import Path

from flask import Flask, current_app, g, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from web_client import config
from web_client.api import label_studio
from web_client.errors import ApiError, WebClientError
from web_client.server.tokens import Token, TokenFile

log = logging.getLogger("web_client")

OPEN = {"page.index", "page.healthz", "page.readyz", "api.openapi", "api.manual", "static"}
"""Endpoints that answer without a token: none of them reaches a model."""
FAILURES = parse("10 per minute")
"""Wrong tokens from one address; above that, its requests are refused before their token is checked."""


def register(app: Flask) -> None:
    """Ask for a token where a token file is set, and count the pictures of each caller in this process's memory.

    Raises:
        WebClientError: the token file cannot be trusted.
    """
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://", headers_enabled=True)
    # One limit for all ways of sending a picture, so that they share the count.
    shared = limiter.shared_limit(
        _parsable_limit, scope="pictures", key_func=_caller, cost=_pictures, exempt_when=_unlimited
    )
    for endpoint in {"api.predict", "page.result", "label_studio.predict"} & app.view_functions.keys():
        app.view_functions[endpoint] = shared(app.view_functions[endpoint])
    if not app.config["TOKEN_FILE"]:
        return
    tokens = TokenFile(Path(app.config["TOKEN_FILE"]))
    tokens.all()  # refuse to start with a file that cannot be trusted
    failures = MovingWindowRateLimiter(MemoryStorage())

    @app.before_request
    def require_token() -> None:
        if request.endpoint in OPEN:
            return
        address = get_remote_address()
        if not failures.test(FAILURES, address):
            message = "Too many requests without a valid token. Wait a minute, then try again."
            raise ApiError(429, "too_many_failures", message, retry_after=60)
        secret = _secret()
        try:
            g.token = tokens.find(secret)
        except WebClientError as error:
            log.error("all requests are refused: %s", error.message)
            message = "The server cannot check tokens now. Tell its operator."
            raise ApiError(503, "tokens_unavailable", message, retry_after=60) from None
        if g.token is None:
            if secret:
                failures.hit(FAILURES, address)
            message = "This server needs a valid token. Ask its operator for one."
            raise ApiError(401, "token_required", message, "token")


def _secret() -> str:
    """The request's token: in its Authorization header, or in the form of a browser without JavaScript; or "".

    Label Studio can only send it as the password of HTTP's basic authentication.
    """
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return secret.strip()
    if request.blueprint == "label_studio" and request.authorization:
        return request.authorization.password or ""
    return request.form.get("token", "").strip() if request.endpoint == "page.result" else ""


def _limit() -> str:
    """The caller's limit: the token's own, else the server's; or ``off``."""
    token: Token | None = g.get("token")
    return (token and token.rate_limit) or str(current_app.config["RATE_LIMIT"])


def _parsable_limit() -> str:
    """What Flask-Limiter parses before it asks whether the caller is exempt."""
    return "1 per second" if _unlimited() else _limit()


def _unlimited() -> bool:
    return _limit() == config.NO_LIMIT


def _caller() -> str:
    token: Token | None = g.get("token")
    return f"token {token.name}" if token else get_remote_address()


def _pictures() -> int:
    if request.blueprint == "label_studio":
        return max(1, len(label_studio.document()["tasks"]))
    return max(1, len(request.files.getlist("image")))
