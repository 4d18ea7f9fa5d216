"""``create_app``: the Flask app, one blueprint per concern."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask

from web_client import config, errors
from web_client.api import label_studio, review
from web_client.api import routes as api
from web_client.api.uploads import MemoryRequest
from web_client.backend.torchserve import TorchServe
from web_client.page import routes as page
from web_client.server import access, middleware

FORM_BYTES = 64_000  # room for the form's other fields


def create_app(settings: Mapping[str, Any] | None = None) -> Flask:
    """The web client as a WSGI application.

    Args:
        settings: values for ``config.OPTIONS`` by name, over those of the environment.

    Raises:
        click.UsageError: a setting's value is not valid.
        WebClientError: the token file or the review store cannot be trusted, the access log cannot be written, or
            the key for Label Studio is missing.
    """
    app = Flask(__name__, static_folder="page/static", template_folder="page/templates")
    app.request_class = MemoryRequest
    app.config.from_mapping(config.read(settings or {}))
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_BYTES"] + FORM_BYTES
    app.config["MAX_FORM_PARTS"] = 20

    app.extensions["torchserve"] = TorchServe(app.config)
    middleware.register(app)
    review.register(app)
    errors.register(app)
    for module in (page, api):
        app.register_blueprint(module.blueprint)
    label_studio.register(app)
    access.register(app)
    return app
