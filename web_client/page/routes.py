"""``/``: the page. ``/healthz`` and ``/readyz`` for probes."""

from __future__ import annotations

import re
from pathlib import Path

from flask import Blueprint, Response, current_app, jsonify, render_template
from markupsafe import Markup, escape

from web_client.api.routes import torchserve
from web_client.config import BROWSER_EXTRA
from web_client.errors import ApiError

blueprint = Blueprint("page", __name__)

STATIC = Path(__file__).parent / "static"
# The page preloads every module, so that none is discovered late.
MODULES = sorted(path.name for path in (STATIC / "js").glob("*.js"))
START_THRESHOLD = "0.5"  # where the page's slider begins
# static/samples/NAME.webp (drawn by this project) and its caption
SAMPLES = {"wall": "By the wall", "street": "In the street", "window": "At the window"}


@blueprint.app_context_processor
def page_values() -> dict[str, object]:
    """Values for every page, error pages included. None of them waits for TorchServe."""
    return {
        "samples": SAMPLES,
        "start_threshold": START_THRESHOLD,
        "modules": MODULES,
        "tokens": bool(current_app.config["TOKEN_FILE"]),
        "browser_timeout_ms": round(1000 * (current_app.config["TIMEOUT"] + BROWSER_EXTRA)),
    }


@blueprint.app_template_filter()
def with_code(text: str | None) -> Markup:
    """Text of the OpenAPI document as HTML, with its `code` marked."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text or ""))))  # noqa: S704 # escaped


@blueprint.get("/")
def index() -> str:
    return render_template("index.html")


@blueprint.get("/healthz")
def healthz() -> Response:
    """200 while this process runs."""
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> Response:
    """200 with the ready versions if the default version can predict, else 503."""
    versions = torchserve().versions()
    if not any(entry["default"] and entry["ready"] for entry in versions):
        raise ApiError(503, "no_model", "No model is ready yet. Try again in a minute.", retry_after=60)
    return jsonify(
        {"status": "ready", "versions": [entry["version"] for entry in versions if entry["ready"]]}
    )
