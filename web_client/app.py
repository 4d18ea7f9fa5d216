"""``create_app``: the Flask app, one blueprint per concern."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask

from web_client import access, api, config, errors, middleware, routes
from web_client.keys import KeyFile
from web_client.torchserve import TorchServe
from web_client.uploads import MemoryRequest

FORM_BYTES = 64_000  # room for the form's other fields


def create_app(settings: Mapping[str, Any] | None = None) -> Flask:
    """The web client as a WSGI application.

    Args:
        settings: values for ``config.SETTINGS`` by name, over those of the environment.

    Raises:
        click.BadParameter: a setting's value is not valid.
        WebClientError: the token file cannot be trusted.
    """
    app = Flask(__name__)
    app.request_class = MemoryRequest
    app.config.from_mapping(config.from_environment())
    app.config.from_mapping(config.checked(settings or {}))
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_BYTES"] + FORM_BYTES
    app.config["MAX_FORM_PARTS"] = 20

    app.extensions["torchserve"] = TorchServe(
        app.config["INFERENCE_URL"],
        app.config["MANAGEMENT_URL"],
        KeyFile(Path(app.config["KEY_FILE"])),
        model=app.config["MODEL_NAME"],
        timeout=app.config["TIMEOUT"],
        connections=app.config["THREADS"],
    )
    middleware.register(app)
    errors.register(app)
    for module in (routes, api):
        app.register_blueprint(module.blueprint)
    access.register(app)
    return app
