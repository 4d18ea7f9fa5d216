"""``/healthz``: this process lives. ``/readyz``: the default version would answer a picture now."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from web_client.api import torchserve
from web_client.errors import Refused

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> Response:
    """Answers the ready versions, or 503 with the reason."""
    versions = torchserve().versions()
    ready = [entry["version"] for entry in versions if entry["ready"]]
    if not any(entry["default"] and entry["ready"] for entry in versions):
        raise Refused(503, "no_model", "No model is ready yet. Try again in a minute.", retry_after=60)
    return jsonify({"status": "ready", "versions": ready})
