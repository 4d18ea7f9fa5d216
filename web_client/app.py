"""``create_app``: the Flask app, put together from a blueprint per concern."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from web_client import api, config, errors, health, middleware, routes
from web_client.keys import KeyFile
from web_client.torchserve import TorchServe
from web_client.uploads import MemoryRequest

FORM_BYTES = 64_000  # what a form may weigh beside its picture


def create_app(test_config: Mapping[str, Any] | None = None) -> Flask:
    """The web client as a WSGI application.

    Args:
        test_config: values for ``config.SETTINGS`` by name, over those of the environment.
    """
    app = Flask(__name__)
    app.request_class = MemoryRequest
    app.config.from_mapping(config.from_environment())
    app.config.from_mapping(test_config or {})
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_BYTES"] + FORM_BYTES
    app.config["MAX_FORM_PARTS"] = 20

    app.extensions["torchserve"] = TorchServe(
        inference_url=app.config["INFERENCE_URL"].rstrip("/"),
        management_url=app.config["MANAGEMENT_URL"].rstrip("/"),
        keys=KeyFile(Path(app.config["KEY_FILE"])),
        model=app.config["MODEL_NAME"],
        timeout=app.config["TIMEOUT"],
        connections=app.config["THREADS"],
    )
    middleware.register(app)
    errors.register(app)
    for module in (routes, api, health):
        app.register_blueprint(module.blueprint)
    _limit_rate(app)
    return app


def _limit_rate(app: Flask) -> None:
    """Count the pictures of each visitor, in this process's memory; looking at pages is free."""
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://", headers_enabled=True)
    if limit := app.config["RATE_LIMIT"]:
        # One limiter for both ways of sending a picture: they share the count.
        shared = limiter.shared_limit(limit, scope="pictures")
        for endpoint in ("api.predict", "pages.result"):
            app.view_functions[endpoint] = shared(app.view_functions[endpoint])
