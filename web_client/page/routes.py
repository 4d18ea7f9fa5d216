"""``/``: the page, and its form for browsers without JavaScript. ``/healthz`` and ``/readyz`` for probes."""

from __future__ import annotations

import base64
import re
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, abort, current_app, g, jsonify, render_template, request
from markupsafe import Markup, escape

from web_client.api.routes import requested_version, torchserve
from web_client.api.uploads import Picture, check_picture, uploaded_pictures
from web_client.errors import no_model, unexpected_answer

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
    }


@blueprint.app_template_filter()
def with_code(text: str | None) -> Markup:
    """Text of the OpenAPI document as HTML, with its `code` marked."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text or ""))))  # noqa: S704 # escaped


@blueprint.get("/")
def index() -> str:
    return render_template("index.html")


@blueprint.post("/")
def result() -> str:
    """The form without JavaScript: the masks as SVG over the picture, and the numbers beside it."""
    picture = _sample(request.form["sample"]) if request.form.get("sample") else uploaded_pictures(1)[0]
    threshold = request.form.get("score_threshold", "")
    options = {"mask_format": "polygon"} | ({"score_threshold": threshold} if threshold else {})
    response = torchserve().predict(picture, requested_version(), options, g.request_id)
    try:
        reply = response.json()
        overlay = _overlay(picture, reply)
    except (ValueError, LookupError, TypeError):
        raise unexpected_answer() from None
    file_name = PurePath(picture.name).stem + "_overlay.svg"
    values = {"reply": reply, "overlay": overlay, "file_name": file_name, "threshold": threshold}
    return render_template("result.html", **values)


def _overlay(picture: Picture, reply: dict[str, Any]) -> str:
    """The picture under its masks, as an SVG in a data URI; ``reply`` has ``mask_format=polygon``."""
    photo = f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode('ascii')}"
    outlines = [
        " ".join("M" + " ".join(f"{value:g}" for value in polygon) + "Z" for polygon in polygons)
        for polygons in (instance["mask"]["polygons"] for instance in reply["instances"])
    ]
    svg = render_template("overlay.svg", photo=photo, outlines=outlines, **reply["image"])
    return "data:image/svg+xml," + quote(svg, safe=" /:;,=+-!?()")


def _sample(name: str) -> Picture:
    if name not in SAMPLES:
        abort(404)
    path = STATIC / "samples" / f"{name}.webp"
    return check_picture(path.read_bytes(), path.name)


@blueprint.get("/healthz")
def healthz() -> Response:
    """200 while this process runs."""
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> Response:
    """200 with the ready versions if the default version can predict, else 503."""
    versions = torchserve().versions()
    if not any(entry["default"] and entry["ready"] for entry in versions):
        raise no_model()
    return jsonify(
        {"status": "ready", "versions": [entry["version"] for entry in versions if entry["ready"]]}
    )
