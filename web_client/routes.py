"""``/``: the page; and, for browsers without JavaScript, the same form answered by the server."""

from __future__ import annotations

import base64
import json
from pathlib import Path, PurePath

from flask import Blueprint, abort, current_app, g, render_template, request

from web_client.api import chosen_version, picture, torchserve
from web_client.errors import Refused
from web_client.uploads import Picture, check_picture

blueprint = Blueprint("pages", __name__)

# static/samples/NAME.webp, drawn by the project itself, and what the page calls them
SAMPLES = {"wall": "By the wall", "street": "In the street", "window": "At the window"}


@blueprint.app_context_processor
def page_values() -> dict[str, object]:
    """What the template shows on every page, errors included; TorchServe may be down."""
    scripts = sorted(path.name for path in (Path(str(current_app.static_folder)) / "js").glob("*.js"))
    return {"samples": SAMPLES, "versions": _versions, "modules": scripts}


def _versions() -> list[dict[str, object]]:
    try:
        return [entry for entry in torchserve().versions() if entry["ready"]]
    except Refused:
        return []


@blueprint.get("/")
def index() -> str:
    return render_template("index.html")


@blueprint.post("/")
def result() -> str:
    """The form without JavaScript: the numbers first (no masks, so it is short), then the overlay, both in
    the page."""
    sent = _sample(request.form["sample"]) if request.form.get("sample") else picture()
    version = chosen_version()
    options = {"score_threshold": request.form.get("score_threshold") or "0.5"}
    numbers = torchserve().predict(sent, version, {**options, "mask_format": "none"}, g.request_id)
    overlay = torchserve().predict(sent, version, {**options, "output": "overlay"}, g.request_id)
    try:
        reply = json.loads(numbers.content)
    except ValueError:
        raise Refused(
            502, "odd_answer", "The model answered something we do not understand. Try again."
        ) from None
    name = PurePath(sent.name).stem + "_overlay.png"
    encoded = base64.b64encode(overlay.content).decode("ascii")
    return render_template("result.html", reply=reply, overlay=encoded, file_name=name, threshold=options)


def _sample(name: str) -> Picture:
    if name not in SAMPLES:
        abort(404)
    data = (Path(str(current_app.static_folder)) / "samples" / f"{name}.webp").read_bytes()
    return check_picture(
        data, f"{name}.webp", current_app.config["MAX_BYTES"], current_app.config["MAX_PIXELS"]
    )
