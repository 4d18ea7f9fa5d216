"""``POST /api/predict`` and ``GET /api/models``: Contract 3."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, current_app, g, jsonify, request

from web_client.errors import Refused
from web_client.torchserve import TorchServe
from web_client.uploads import Picture, read_picture

blueprint = Blueprint("api", __name__, url_prefix="/api")

ANSWERS = ("application/json", "image/png")


def torchserve() -> TorchServe:
    """The app's one connection to TorchServe."""
    server: TorchServe = current_app.extensions["torchserve"]
    return server


def picture() -> Picture:
    """The picture of the current request, judged by the app's limits."""
    return read_picture(request, current_app.config["MAX_BYTES"], current_app.config["MAX_PIXELS"])


def chosen_version() -> str | None:
    """The form's ``version``, or None for TorchServe's default."""
    version = request.form.get("version", "").strip()
    if version and not re.fullmatch(r"[\w.+-]{1,100}", version):
        raise Refused(
            404, "unknown_version", "There is no such model version. Choose another one.", "version"
        )
    return version or None


def chosen_options() -> dict[str, str]:
    """The form's other fields. The model judges them; only names that its server cannot take apart end here."""
    options = {name: value for name, value in request.form.items() if name != "version"}
    for name in options:
        if not name or not name.isprintable():
            raise Refused(
                400, "unknown_option", "An option of this request has no readable name. Leave it out.", name
            )
    return options


@blueprint.post("/predict")
def predict() -> Response:
    """Multipart: ``image``, optionally ``version``, and Contract 2's options, which the model itself
    judges."""
    sent = picture()
    reply = torchserve().predict(sent, chosen_version(), chosen_options(), g.request_id)
    kind = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in ANSWERS:
        raise Refused(502, "odd_answer", "The model answered something we do not understand. Try again.")
    return Response(reply.content, content_type=kind)


@blueprint.get("/models")
def models() -> Response:
    """The versions that are ready: ``{"models": [{"version", "default", "backbone", "classes", "segm_AP"},
    …]}``."""
    return jsonify({"models": [summary(model) for model in torchserve().models()]})


def summary(model: dict[str, Any]) -> dict[str, Any]:
    """The few things of a model's card that the page shows."""
    card = model["card"]
    described = card.get("model") or {}
    return {
        "version": model["version"],
        "default": model["default"],
        "backbone": described.get("backbone") or model["version"].partition(".")[0],
        "classes": card.get("classes") or [],
        "segm_AP": segm_ap(card.get("evaluation")),
    }


def segm_ap(evaluation: Any) -> float | None:
    """The mask AP in a model's own summary of its evaluation, 0..100; None if it was never evaluated."""
    segm = evaluation.get("segm") if isinstance(evaluation, dict) else None
    value = segm.get("AP") if isinstance(segm, dict) else None
    return float(value) if isinstance(value, int | float) else None
